"""`mounts`: what is mounted below the container's root, by target."""

# ruff: noqa: ARG002 - each kind takes what any kind may need

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from northstar.manifest import bounds
from northstar.manifest.kinds import U64, Integer, Kind, Parsed, Text, integer_of, text_of
from northstar.manifest.node import Context, Node, Scalar, describe, invalid, join, show
from northstar.manifest.records import MapOf, Record
from northstar.manifest.variants import ByType
from northstar.model import Name, VersionReq


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


class Bind(msgspec.Struct, frozen=True):
    """The host's file or directory `host`."""

    host: str
    options: MountOptions = frozenset()


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
    """The directory `dir` of the resource `name` in the best version that fulfils `version`.

    It is always read only: `rw` is accepted, as packages have it, and does nothing.
    """

    name: Name
    version: VersionReq
    dir: str
    options: MountOptions = frozenset()


class Tmpfs(msgspec.Struct, frozen=True):
    """A tmpfs of `size` bytes; 0 is no limit. See tmpfs(5)."""

    size: int


Mount = Bind | Dev | Persist | Proc | Sysfs | Sockets | Resource | Tmpfs


def _path_rule(text: str) -> str | None:
    # Most paths have no dot after a slash, which is the quicker test.
    if not text.startswith("/") or ("/." in text and {".", ".."} & set(text.split("/"))):
        return "is not an absolute path without '.' and '..'"
    return None


PATH: Final = Text("a path", most=bounds.PATH_MAX, check=_path_rule, pattern="^/")

_SIZE: Final = re.compile(r"\s*([0-9]+)\s*(?:([KMGT])(i?B)?|B)?\s*\Z", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE_DIGITS_MAX: Final = 40


class _Size(Kind[int]):
    """Bytes: an integer, or text as `10M`. K, M, G, T (and KB ...) are powers of 1000."""

    __slots__ = ()

    _NUMBER = Integer(0, U64)

    def read(self, node: Node, path: str, context: Context) -> int:
        size = integer_of(node)
        if size is None and type(node) is Scalar and len(node.text) <= _SIZE_DIGITS_MAX:
            match = _SIZE.match(node.text)
            if match is not None:
                base = 1024 if (match[3] or "").lower() == "ib" else 1000
                size = int(match[1]) * base ** _UNITS[(match[2] or "").lower()]
        if size is None or not 0 <= size <= U64:
            raise invalid(
                node,
                path,
                f"{describe(node)} is not a size "
                "(bytes, or a number with K, M, G, T, KiB, MiB, GiB, TiB)",
            )
        return size

    def dump(self, value: int, *, tagged: bool) -> int:
        return value

    def schema(self) -> dict[str, Any]:
        pattern = r"^\s*[0-9]+\s*([KMGTkmgt]([iI]?[bB])?|[bB])?\s*$"
        return {"oneOf": [self._NUMBER.schema(), {"type": "string", "pattern": pattern}]}


class _Options(Kind[MountOptions]):
    """Options with commas between them, as `rw,nosuid`."""

    __slots__ = ()

    _BY_NAME: Final = {option.value: option for option in MountOption}

    def read(self, node: Node, path: str, context: Context) -> MountOptions:
        text = text_of(node, path).strip()
        options = set()
        for name in text.split(",") if text else ():
            option = self._BY_NAME.get(name.strip())
            if option is None:
                # Read only is the default, so `ro` is a likely guess.
                hint = "leave it out: read only is the default" if name.strip() == "ro" else None
                raise invalid(
                    node,
                    path,
                    f"{name.strip()[:32]!r} is not a mount option ({', '.join(self._BY_NAME)})",
                    hint=hint,
                )
            options.add(option)
        return frozenset(options)

    def dump(self, value: MountOptions, *, tagged: bool) -> str:
        return ",".join(option.value for option in MountOption if option in value)

    def schema(self) -> dict[str, Any]:
        name = rf"\s*({'|'.join(self._BY_NAME)})\s*"
        return {"type": "string", "pattern": rf"^({name}(,{name})*|\s*)$"}


_NAME = Parsed(
    Name,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
        "pattern": r"^(?!\.{1,2}$)[0-9A-Za-z._-]+$",
    },
)
_REQUIREMENT = Parsed(VersionReq.parse, {"type": "string", "minLength": 1})


def _no_rec(values: dict[Any, Any], nodes: dict[str, Node], path: str, context: Context) -> None:
    if MountOption.REC in values.get("options", ()):
        context.refuse(
            invalid(nodes["options"], join(path, "options"), "a resource cannot have 'rec'")
        )


def _plain(struct: type[msgspec.Struct]) -> tuple[type[msgspec.Struct], Record[Any]]:
    return struct, Record(struct, {}, ignore_unknown=True, tag=ByType.TAG)


_MOUNT: ByType[Mount] = ByType(
    "a type of mount",
    {
        "bind": (
            Bind,
            Record(
                Bind,
                {"host": Text("a path", most=bounds.PATH_MAX), "options": _Options()},
                tag=ByType.TAG,
            ),
        ),
        "dev": _plain(Dev),
        "persist": _plain(Persist),
        "proc": _plain(Proc),
        "sysfs": _plain(Sysfs),
        "sockets": _plain(Sockets),
        "resource": (
            Resource,
            Record(
                Resource,
                {"name": _NAME, "version": _REQUIREMENT, "dir": PATH, "options": _Options()},
                check=_no_rec,
                tag=ByType.TAG,
            ),
        ),
        "tmpfs": (Tmpfs, Record(Tmpfs, {"size": _Size()}, tag=ByType.TAG)),
    },
)


def components(path: str) -> tuple[str, ...]:
    """Split an absolute path: `/a/b`, `/a//b` and `/a/b/` are the same."""
    return tuple(part for part in path.split("/") if part)


def _no_nested_binds(
    mounts: dict[Any, Any], nodes: dict[str, Node], path: str, context: Context
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
            rule = f"the bind mount is nested in that of {show(outer_target)}"
            context.refuse(invalid(nodes[target], join(path, target), rule))
        else:
            outer, outer_target = parts, target


NAME: Final = _NAME
MOUNTS: Final[MapOf[str, Mount]] = MapOf(
    PATH, _MOUNT, most=bounds.MOUNTS_MAX, check=_no_nested_binds
)

Mounts = Mapping[str, Mount]
