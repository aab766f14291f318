"""Kinds that several documents use: durations, sizes, permissions, names."""

from __future__ import annotations

from typing import Any, Final

from northstar.model import (
    FULL,
    InvalidValueError,
    Name,
    Permission,
    Permissions,
    Version,
    VersionReq,
)
from northstar.model.pattern import Pattern
from northstar.model.units import format_duration, format_size, parse_duration, parse_size
from northstar.schema.context import Context, Path
from northstar.schema.node import Node, Scalar, is_empty
from northstar.schema.records import ListOf
from northstar.schema.scalars import U64, Integer, Kind, Parsed, integer_of
from northstar.schema.variants import Choice

CGROUP_LEVELS_MAX: Final = 32
"""Most levels of the path of a cgroup.

The kernel charges resources to every level above a process, and does not limit their number."""


class Duration(Parsed[float]):
    """Seconds, written as `5s`, `1m 30s` or `100ms`."""

    def __init__(self, least: float = 0.0) -> None:
        def parse(text: str) -> float:
            seconds = parse_duration(text)
            if seconds < least:
                hint = f"at least {format_duration(least)}"
                raise InvalidValueError(f"{text!r} is too short", hint=hint)
            return seconds

        schema = {"type": "string", "pattern": r"^ *([0-9]+ *[A-Za-z]+ *)+$"}
        super().__init__(parse, schema, form=format_duration, unit="seconds")


class Size(Parsed[int]):
    """Bytes, written as `512`, `100MB` or `1.5 MiB` in a string. K, KB .. are powers of 1000."""

    def __init__(self, least: int = 0) -> None:
        def parse(text: str) -> int:
            size = parse_size(text)
            if size < least:
                raise InvalidValueError(f"{text!r} is too small", hint=f"at least {least} bytes")
            return size

        schema = {"type": "string", "pattern": r"^[0-9]*\.?[0-9]*( *([kmgtpeKMGTPE][iI]?)?[bB]?)$"}
        super().__init__(parse, schema, form=format_size, unit="bytes")


class WholeSize(Kind[int]):
    """Bytes, written as an integer, or as text without a fraction: `10M`, `10 MiB`."""

    unit = "bytes"

    _TEXT: Final = Pattern(r"(?ai)\s*([0-9]{1,40})\s*((?:[KMGT](?:i?B)?|B)?)\s*\Z")

    def read(self, node: Node, path: Path, context: Context[Any]) -> int:
        """Return the bytes."""
        size = integer_of(node)
        if size is None and type(node) is Scalar and (match := self._TEXT.match(node.text)):
            try:
                size = parse_size(match[1] + match[2])
            except InvalidValueError:
                size = None
        if size is None or not 0 <= size <= U64:
            rule = "is not a size (bytes, or a number with K, M, G, T, KiB, MiB, GiB, TiB)"
            raise context.invalid(node, path, f"{context.describe(node)} {rule}")
        return size

    def schema(self) -> dict[str, Any]:
        """Return the schema: an integer or a text."""
        pattern = r"^\s*[0-9]+\s*([KMGTkmgt]([iI]?[bB])?|[bB])?\s*$"
        return {"oneOf": [Integer(0, U64).schema(), {"type": "string", "pattern": pattern}]}


class FileMode(Integer):
    """Permission bits of a file: read, write, execute for owner, group and others."""

    def __init__(self) -> None:
        super().__init__(0, 0o777, "a file mode", unit="file mode")
        self._bounds = "(0o000 to 0o777)"
        self._hint = "write it in octal and without quotes, as 0o600 or 0o660"


class PermissionSet(Kind[Permissions]):
    """`full`, or a list of permissions."""

    def __init__(
        self,
        rule: str = "is neither 'full' nor a list of permissions",
        item: str = "a permission",
        *,
        hint: str | None = None,
    ) -> None:
        self._rule = rule
        self._hint = hint
        order = [*Permission].index
        self._list: ListOf[Permissions] = ListOf(frozenset, Choice(Permission, item), order=order)
        self.parts = (self._list,)

    def read(self, node: Node, path: Path, context: Context[Any]) -> Permissions:
        """Return the permissions."""
        if type(node) is not Scalar:
            return self._list.read(node, path, context)
        if node.text.strip() == "full":
            return FULL
        # An empty node is not an empty list here: a console without any permission must be
        # requested explicitly, as `[]`.
        what = "nothing" if is_empty(node) else context.describe(node)
        raise context.invalid(node, path, f"{what} {self._rule}", hint=self._hint)

    def dump(self, value: Permissions, *, tagged: bool) -> Any:
        """Return `full`, or the list."""
        return "full" if value == FULL else self._list.dump(value, tagged=tagged)

    def schema(self) -> dict[str, Any]:
        """Return the schema: `full` or the list."""
        return {"oneOf": [{"const": "full"}, self._list.schema()]}


_NAME_SCHEMA: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1024,
    "pattern": r"^(?!\.{1,2}$)[0-9A-Za-z._-]+$",
}
_VERSION_SCHEMA: Final = {
    "type": "string",
    "pattern": r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]+)?$",
}

NAME: Final = Parsed(Name, _NAME_SCHEMA)
"""The name of a container."""

STRICT_NAME: Final = Parsed(Name, _NAME_SCHEMA, strict=True)
"""The name of a container, but a number without quotes is refused."""

VERSION: Final = Parsed(Version.parse, _VERSION_SCHEMA)
"""The version of a container."""

REQUIREMENT: Final = Parsed(VersionReq.parse, {"type": "string", "minLength": 1}, strict=True)
"""A version requirement. `1.2` without quotes is refused: in YAML it is the same number as 1.20."""
