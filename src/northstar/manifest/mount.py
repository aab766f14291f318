"""`mounts`: what is mounted below the container's root, by target."""

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
    """An option of a bind or resource mount, named as mount(8) names it where it knows it."""

    RW = "rw"
    """Writable: without it the mount is read only."""
    NOEXEC = "noexec"
    NOSUID = "nosuid"
    NODEV = "nodev"
    REC = "rec"
    """With all mounts below the source."""


MountOptions = frozenset[MountOption]


_BY_NAME: Final = {option.value: option for option in MountOption}


def _parse_options(text: str) -> MountOptions:
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    for name in names:
        if name not in _BY_NAME:
            # Read only is the default, so `ro` is a likely guess.
            hint = "leave it out: read only is the default" if name == "ro" else None
            rule = f"{name[:32]!r} is not a mount option ({', '.join(_BY_NAME)})"
            raise InvalidValueError(rule, hint=hint)
    return frozenset(map(_BY_NAME.__getitem__, names))


def _format_options(options: MountOptions) -> str:
    return ",".join(option.value for option in MountOption if option in options)


_OPTION_PATTERN: Final = rf"\s*({'|'.join(_BY_NAME)})\s*"
OPTIONS: Final = Parsed(
    _parse_options,
    {"type": "string", "pattern": rf"^({_OPTION_PATTERN}(,{_OPTION_PATTERN})*|\s*)$"},
    form=_format_options,
)


def _path_rule(text: str) -> str | None:
    # Most paths have no dot after a slash, which is the quicker test.
    if not text.startswith("/") or ("/." in text and {".", ".."} & set(text.split("/"))):
        return "is not an absolute path without '.' and '..'"
    return None


PATH: Final = Text("a path", most=bounds.PATH_MAX, check=_path_rule, pattern="^/")

_HOST: Final = Text("a path", most=bounds.PATH_MAX, strict=True)
_OPTIONS: Final = Field(OPTIONS, "Names with commas between them: rw, noexec, nosuid, nodev, rec.")


class Bind(msgspec.Struct, frozen=True):
    """A file or directory of the host. It is read only without the option `rw`."""

    host: Annotated[str, Field(_HOST, "Path on the host.")]
    options: Annotated[MountOptions, _OPTIONS] = frozenset()


class Dev(msgspec.Struct, frozen=True):
    """A minimal /dev."""


class Persist(msgspec.Struct, frozen=True):
    """The container's own directory on the host, which outlives it."""


class Proc(msgspec.Struct, frozen=True):
    """procfs, read only."""


class Sysfs(msgspec.Struct, frozen=True):
    """sysfs, read only."""


class Sockets(msgspec.Struct, frozen=True):
    """The directory of the container's sockets."""


class Resource(msgspec.Struct, frozen=True):
    """A directory of a resource, in its best version that fulfils a requirement.

    It is always read only: `rw` is accepted, as packages have it, and does nothing.
    """

    name: Annotated[Name, Field(STRICT_NAME, "Name of the resource.")]
    version: Annotated[
        VersionReq, Field(REQUIREMENT, 'Version requirement, as `"^1.2"` (a string, in quotes).')
    ]
    dir: Annotated[str, Field(PATH, "Directory in the resource.")]
    options: Annotated[MountOptions, _OPTIONS] = frozenset()


class Tmpfs(msgspec.Struct, frozen=True):
    """A tmpfs. See tmpfs(5)."""

    size: Annotated[int, Field(WholeSize(), "Its size, as `10M`; 0 is no limit.")]


Mount = Bind | Dev | Persist | Proc | Sysfs | Sockets | Resource | Tmpfs


def _no_rec(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    if MountOption.REC in values.get("options", ()):
        rule = "a resource cannot have 'rec'"
        context.refuse(context.invalid(nodes["options"], (*path, "options"), rule))


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
    """Split an absolute path: `/a/b`, `/a//b` and `/a/b/` are the same."""
    return tuple(part for part in path.split("/") if part)


def _no_nested_binds(
    mounts: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    # In the order of components all that is below a target follows it at once. The root is left
    # out: whatever is bound there, all other mounts are below of it.
    binds = sorted(
        (parts, target)
        for target, mount in mounts.items()
        if type(mount) is Bind and (parts := components(target))
    )
    outer, outer_target = binds[0] if binds else ((), "")
    for parts, target in binds[1:]:
        if parts[: len(outer)] == outer:
            rule = f"the bind mount is nested in that of {quote(outer_target)}"
            context.refuse(context.invalid(nodes[target], (*path, target), rule))
        else:
            outer, outer_target = parts, target


MOUNTS: Final[MapOf[str, Mount]] = MapOf(
    PATH, _MOUNT, max_entries=bounds.MOUNTS_MAX, check=_no_nested_binds
)

Mounts = Mapping[str, Mount]
