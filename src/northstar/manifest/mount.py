"""`mounts`: the mounts in the container, by target."""

import enum
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from northstar.manifest import bounds
from northstar.model import InvalidValueError, Name, VersionReq
from northstar.model.text import quote
from northstar.schema.context import Context, Path
from northstar.schema.node import Node
from northstar.schema.records import Field, MapOf, Record
from northstar.schema.scalars import Parsed, Text
from northstar.schema.values import REQUIREMENT, STRICT_NAME, WholeSize
from northstar.schema.variants import ByType


class MountOption(enum.Enum):
    """An option of a bind or resource mount. Except for `rec`, the names are those of mount(8)."""

    RW = "rw"
    """Writable; the default is read only."""
    NOEXEC = "noexec"
    NOSUID = "nosuid"
    NODEV = "nodev"
    REC = "rec"
    """Recursive: with all mounts below the source."""


MountOptions = frozenset[MountOption]


_BY_NAME: Final = {option.value: option for option in MountOption}


def _parse_options(text: str) -> MountOptions:
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    for name in names:
        if name not in _BY_NAME:
            # `ro` is a likely mistake, since read only is the default.
            hint = "leave it out: read only is the default" if name == "ro" else None
            rule = f"{name[:32]!r} is not a mount option ({', '.join(_BY_NAME)})"
            raise InvalidValueError(rule, hint=hint)
    return frozenset(map(_BY_NAME.__getitem__, names))


def _format_options(options: MountOptions) -> str:
    return ",".join(option.value for option in MountOption if option in options)


_OPTION_PATTERN: Final = rf"\s*({'|'.join(_BY_NAME)})\s*"
OPTIONS: Final = Parsed(
    _parse_options,
    {
        "title": "text",
        "type": "string",
        "pattern": rf"^({_OPTION_PATTERN}(,{_OPTION_PATTERN})*|\s*)$",
    },
    form=_format_options,
)


def path_rule(text: str) -> str | None:
    """Return what is wrong with a path in the container; None if nothing."""
    # The test for "/." is fast, and excludes most paths.
    if not text.startswith("/") or ("/." in text and {".", ".."} & set(text.split("/"))):
        return "is not an absolute path without '.' and '..'"
    return None


_ABSOLUTE: Final = "write it as /data"

PATH: Final = Text("a path", most=bounds.PATH_MAX, check=path_rule, pattern="^/", hint=_ABSOLUTE)

_HOST: Final = Text("a path", most=bounds.PATH_MAX, strict=True)
_OPTIONS: Final = Field(
    OPTIONS,
    "Names separated by commas: `rw` (writable), `noexec`, `nosuid`, `nodev` (see mount(8)), `rec` "
    "(with the mounts below it; not for a resource).",
    example="noexec,nosuid",
)


class Bind(msgspec.Struct, frozen=True):
    """A file or directory of the host. It is read only without the option `rw`."""

    host: Annotated[
        str, Field(_HOST, "Path of the file or directory on the host.", example="/etc/localtime")
    ]
    options: Annotated[MountOptions, _OPTIONS] = frozenset()


class Dev(msgspec.Struct, frozen=True):
    """A minimal /dev."""


class Persist(msgspec.Struct, frozen=True):
    """A directory on the host for persistent data of the container."""


class Proc(msgspec.Struct, frozen=True):
    """procfs, read only."""


class Sysfs(msgspec.Struct, frozen=True):
    """sysfs, read only."""


class Sockets(msgspec.Struct, frozen=True):
    """The directory of the container's sockets."""


class Resource(msgspec.Struct, frozen=True):
    """A directory of a resource, in its best version that matches a requirement.

    It is always read only: `rw` is accepted for existing packages, and has no effect.
    """

    name: Annotated[Name, Field(STRICT_NAME, "Name of the resource.", example="python")]
    version: Annotated[
        VersionReq,
        Field(
            REQUIREMENT,
            'Version requirement, such as `"^1.2"`, by the rules of Cargo; a quoted string. The '
            "newest installed version that fulfils it is mounted.",
            example="^3.11",
        ),
    ]
    dir: Annotated[
        str, Field(PATH, "Absolute path of a directory in the resource.", example="/usr")
    ]
    options: Annotated[MountOptions, _OPTIONS] = frozenset()


class Tmpfs(msgspec.Struct, frozen=True):
    """A tmpfs. See tmpfs(5)."""

    size: Annotated[
        int, Field(WholeSize(), "Its size, such as `10M`; 0 is no limit.", example="10MiB")
    ]


Mount = Bind | Dev | Persist | Proc | Sysfs | Sockets | Resource | Tmpfs


def _no_rec(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    if MountOption.REC in values.get("options", ()):
        rule = "a resource cannot have 'rec'"
        error = context.invalid(nodes["options"], (*path, "options"), rule, hint="remove it")
        context.refuse(error)


def _plain(struct: type[msgspec.Struct]) -> Record[Any]:
    return Record(struct, ignore_unknown=True, tag=ByType.TAG)


_MOUNT: ByType[Mount] = ByType(
    "a type of mount",
    {
        "bind": Record(Bind, tag=ByType.TAG),
        "dev": _plain(Dev),
        "persist": _plain(Persist),
        "proc": _plain(Proc),
        "sysfs": _plain(Sysfs),
        "sockets": _plain(Sockets),
        "resource": Record(Resource, check=_no_rec, tag=ByType.TAG),
        "tmpfs": Record(Tmpfs, tag=ByType.TAG),
    },
)


def components(path: str) -> tuple[str, ...]:
    """Return the components of an absolute path; the same for `/a/b`, `/a//b` and `/a/b/`."""
    return tuple(part for part in path.split("/") if part)


def _no_nested_binds(
    mounts: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    # Sorted by components, targets below another target follow it directly. A bind mount on the
    # root is not checked: all other mounts are below it.
    binds = sorted(
        (parts, target)
        for target, mount in mounts.items()
        if type(mount) is Bind and (parts := components(target))
    )
    outer, outer_target = binds[0] if binds else ((), "")
    for parts, target in binds[1:]:
        if parts[: len(outer)] == outer:
            rule = f"the bind mount is nested in that of {quote(outer_target)}"
            hint = "mount it elsewhere"
            context.refuse(context.invalid(nodes[target], (*path, target), rule, hint=hint))
        else:
            outer, outer_target = parts, target


MOUNTS: Final[MapOf[str, Mount]] = MapOf(
    PATH, _MOUNT, max_entries=bounds.MOUNTS_MAX, check=_no_nested_binds
)

Mounts = Mapping[str, Mount]
