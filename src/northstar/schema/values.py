"""Kinds that several documents use: durations, sizes, permissions, names."""

from __future__ import annotations

from collections.abc import Iterable
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
from northstar.model.units import (
    format_duration,
    format_nanoseconds,
    format_size,
    parse_duration,
    parse_nanoseconds,
    parse_size,
)
from northstar.schema.context import Context, Path
from northstar.schema.node import Node, Scalar, is_empty
from northstar.schema.records import ListOf
from northstar.schema.scalars import U64, Integer, Kind, Parsed, integer_of
from northstar.schema.variants import Choice

CGROUP_LEVELS_MAX: Final = 32
"""Most levels of the path of a cgroup.

The kernel charges resources to every level above a process, and does not limit their number."""


_DAY: Final = 86400 * 10**9
"""A day in nanoseconds."""

_DURATION_SCHEMA: Final = {
    "title": "duration such as 100ms, 5s or 1m 30s",
    "type": "string",
    "pattern": r"^ *([0-9]+ *[A-Za-z]+ *)+$",
}


class Duration(Parsed[float]):
    """Seconds, written as `5s`, `1m 30s` or `100ms`."""

    def __init__(self, least: float = 0.0) -> None:
        def parse(text: str) -> float:
            seconds = parse_duration(text)
            if seconds < least:
                hint = f"at least {format_duration(least)}"
                raise InvalidValueError(f"{text!r} is too short", hint=hint)
            return seconds

        super().__init__(parse, _DURATION_SCHEMA, form=format_duration, unit="seconds")


class Nanoseconds(Parsed[int]):
    """Nanoseconds, 1 to `most`, written as `5s`, `1m 30s` or `100ms`."""

    def __init__(self, most: int) -> None:
        def parse(text: str) -> int:
            duration = parse_nanoseconds(text)
            if not duration:
                raise InvalidValueError(f"{text!r} is too short", hint="it must be longer than 0")
            if duration > most:
                hint = f"at most {most // _DAY} days"
                raise InvalidValueError(f"{text!r} is too long", hint=hint)
            return duration

        # A reader needs the form of the text, since it contains its own unit.
        unit = "duration such as `5s` or `1m 30s`"
        super().__init__(parse, _DURATION_SCHEMA, form=format_nanoseconds, unit=unit)


class Size(Parsed[int]):
    """Bytes, written as `512`, `100MB` or `1.5 MiB` in a string. K, KB .. are powers of 1000."""

    def __init__(self, least: int = 0) -> None:
        def parse(text: str) -> int:
            size = parse_size(text)
            if size < least:
                raise InvalidValueError(f"{text!r} is too small", hint=f"at least {least} bytes")
            return size

        schema = {
            "title": "size such as 512, 100MB or 1.5MiB, as text",
            "type": "string",
            "pattern": r"^[0-9]*\.?[0-9]*( *([kmgtpeKMGTPE][iI]?)?[bB]?)$",
        }
        super().__init__(parse, schema, form=format_size, unit="bytes")


class WholeSize(Kind[int]):
    """Bytes, written as an integer, or as text without a fraction: `10M`, `10 MiB`."""

    unit = "bytes"

    _TEXT: Final = Pattern(r"(?ai)\s*([0-9]{1,40})\s*((?:[KMGT](?:i?B)?|B)?)\s*\Z")

    def __init__(self, least: int = 0, most: int = U64, *, multiple: int = 1) -> None:
        """Accept sizes from `least` to `most` bytes that are multiples of `multiple`."""
        self._least = least
        self._most = most
        self._multiple = multiple

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
            hint = "write it as 10MiB"
            raise context.invalid(node, path, f"{context.describe(node)} {rule}", hint=hint)
        if not self._least <= size <= self._most:
            bounds = f"({format_size(self._least)} to {format_size(self._most)})"
            rule = f"{context.describe(node)} is out of range {bounds}"
            hint = (
                f"write at least {format_size(self._least)}"
                if size < self._least
                else (f"write at most {format_size(self._most)}")
            )
            raise context.invalid(node, path, rule, hint=hint)
        if size % self._multiple:
            rule = f"{context.describe(node)} is not a multiple of {self._multiple} bytes"
            hint = f"write {size - size % self._multiple or self._multiple}"
            raise context.invalid(node, path, rule, hint=hint)
        return size

    def schema(self) -> dict[str, Any]:
        """Return the schema: an integer or a text."""
        pattern = r"^\s*[0-9]+\s*([KMGTkmgt]([iI]?[bB])?|[bB])?\s*$"
        number = Integer(self._least, self._most).schema()
        if self._multiple > 1:
            number["multipleOf"] = self._multiple
        bounds = f"{format_size(self._least)} to {format_size(self._most)}"
        title = f"size such as 65536 or 256KiB, {bounds}" if self._most < U64 else ""
        return {
            "title": title or "size such as 10485760 or 10MiB",
            "oneOf": [number, {"type": "string", "pattern": pattern}],
        }


class FileMode(Integer):
    """Permission bits of a file: read, write, execute for owner, group and others."""

    def __init__(self) -> None:
        hint = "write it in octal and without quotes, as 0o600 or 0o660"
        super().__init__(0, 0o777, "a file mode", unit="file mode", hint=hint)
        self._bounds = "(0o000 to 0o777)"

    def schema(self) -> dict[str, Any]:
        """Return the schema of the range."""
        return {"title": "file mode, 0o000 to 0o777", **super().schema()}


_FULL: Final = "full"


def permission_list(
    allowed: Permissions, item: str, *, hint: str | None = None, full: bool = False
) -> ListOf[Permissions]:
    """Return the kind of a list of permissions, written in the order of their declaration.

    Args:
        allowed: the permissions that it may have.
        item: the noun for an item.
        hint: what to write instead of an item that is refused.
        full: whether `full` may be an item, which stands for its permissions.
    """
    order = [*Permission].index
    names: list[Permission | str] = [one for one in Permission if one in allowed]
    if full:
        names.insert(0, _FULL)
    return ListOf(_expanded, Choice(names, item, hint=hint), order=order)


def _expanded(items: Iterable[Any]) -> Permissions:
    permissions: set[Permission] = set()
    for item in items:
        permissions |= FULL if item == _FULL else {item}
    return frozenset(permissions)


class PermissionSet(Kind[Permissions]):
    """`full`, or a list of permissions."""

    def __init__(
        self,
        rule: str = "is neither 'full' nor a list of permissions",
        item: str = "a permission",
        *,
        hint: str | None = None,
        allowed: Permissions = FULL,
        item_hint: str | None = None,
        full_item: bool = False,
    ) -> None:
        """Describe a set of permissions.

        Args:
            rule: what is wrong with a text other than `full`.
            item: the noun for an item of the list.
            hint: what to write instead of such a text.
            allowed: the permissions that the list may have.
            item_hint: what to write instead of an item that is refused.
            full_item: whether `full` may also be an item of the list.
        """
        self._rule = rule
        self._hint = hint
        self._list = permission_list(allowed, item, hint=item_hint, full=full_item)
        self.parts = (self._list,)

    def read(self, node: Node, path: Path, context: Context[Any]) -> Permissions:
        """Return the permissions."""
        if type(node) is not Scalar:
            return self._list.read(node, path, context)
        if node.text.strip() == _FULL:
            return FULL
        # An empty node is not an empty list here: a console without any permission must be
        # requested explicitly, as `[]`.
        what = "nothing" if is_empty(node) else context.describe(node)
        raise context.invalid(node, path, f"{what} {self._rule}", hint=self._hint)

    def dump(self, value: Permissions, *, tagged: bool) -> Any:
        """Return `full`, or the list."""
        return _FULL if value == FULL else self._list.dump(value, tagged=tagged)

    def schema(self) -> dict[str, Any]:
        """Return the schema: `full` or the list."""
        return {"oneOf": [{"const": _FULL}, self._list.schema()]}


NAME_SCHEMA: Final = {
    "title": "container name",
    "type": "string",
    "minLength": 1,
    "maxLength": 1024,
    "pattern": r"^(?!\.{1,2}$)[0-9A-Za-z._-]+$",
}
"""The JSON Schema of the name of a container."""

_VERSION_SCHEMA: Final = {
    "title": "version such as 1.0.0",
    "type": "string",
    "pattern": r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]+)?$",
}

NAME: Final = Parsed(Name, NAME_SCHEMA)
"""The name of a container."""

STRICT_NAME: Final = Parsed(Name, NAME_SCHEMA, strict=True)
"""The name of a container, but a number without quotes is refused."""

VERSION: Final = Parsed(Version.parse, _VERSION_SCHEMA)
"""The version of a container."""

REQUIREMENT: Final = Parsed(
    VersionReq.parse,
    {"title": "version requirement such as ^1.2, as text", "type": "string", "minLength": 1},
    strict=True,
)
"""A version requirement. `1.2` without quotes is refused: in YAML it is the same number as 1.20."""
