"""Kinds of the model's values that several documents have: durations, sizes, permissions, names."""

# ruff: noqa: ARG002 - each kind takes what any kind may need

from __future__ import annotations

import re
from typing import Any, Final

from northstar.model import FULL, Name, Permission, Permissions, Version, VersionReq
from northstar.model.units import format_duration, format_size, parse_duration, parse_size
from northstar.schema.context import Context, Path
from northstar.schema.node import Node, Scalar, is_empty
from northstar.schema.records import ListOf
from northstar.schema.scalars import U64, Choice, Integer, Kind, Parsed, integer_of, text_of


class Duration(Kind[float]):
    """Seconds, written as `5s`, `1m 30s` or `100ms`."""

    __slots__ = ("_least",)

    unit = "seconds"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def read(self, node: Node, path: Path, context: Context[Any]) -> float:
        """Return the seconds."""
        text = text_of(node, path, context)
        try:
            seconds = parse_duration(text)
        except ValueError:
            hint = 'write numbers with units, as "5s", "1m 30s" or "100ms"'
            rule = f"{context.show(text)} is not a duration"
            raise context.invalid(node, path, rule, hint=hint) from None
        if seconds < self._least:
            hint = f"at least {format_duration(self._least)}"
            raise context.invalid(node, path, f"{context.show(text)} is too short", hint=hint)
        return seconds

    def dump(self, value: float, *, tagged: bool) -> str:
        """Return the duration with a unit."""
        return format_duration(value)

    def schema(self) -> dict[str, Any]:
        """Return the schema: numbers with units."""
        return {"type": "string", "pattern": r"^ *([0-9]+ *[A-Za-z]+ *)+$"}


class Size(Kind[int]):
    """Bytes, written as `512`, `100MB` or `1.5 MiB` in a string. K, KB .. are powers of 1000."""

    __slots__ = ("_least",)

    unit = "bytes"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def read(self, node: Node, path: Path, context: Context[Any]) -> int:
        """Return the bytes."""
        text = text_of(node, path, context)
        try:
            size = parse_size(text)
        except ValueError as error:
            rule = str(error).replace(repr(text), context.show(text))
            hint = 'write it as "512", "100MB" or "1MiB"'
            raise context.invalid(node, path, rule, hint=hint) from None
        if size < self._least:
            hint = f"at least {self._least} bytes"
            raise context.invalid(node, path, f"{context.show(text)} is too small", hint=hint)
        return size

    def dump(self, value: int, *, tagged: bool) -> Any:
        """Return the size with a unit."""
        return format_size(value)

    def schema(self) -> dict[str, Any]:
        """Return the schema of the text."""
        return {"type": "string", "pattern": r"^[0-9]*\.?[0-9]*( *([kmgtpeKMGTPE][iI]?)?[bB]?)$"}


class WholeSize(Size):
    """Bytes, written as an integer, or as text without a fraction: `10M`, `10 MiB`."""

    __slots__ = ()

    _TEXT: Final = re.compile(
        r"\s*([0-9]{1,40}\s*(?:[KMGT](?:i?B)?|B)?)\s*\Z", re.ASCII | re.IGNORECASE
    )

    def read(self, node: Node, path: Path, context: Context[Any]) -> int:
        """Return the bytes."""
        size = integer_of(node)
        if size is None and type(node) is Scalar and (match := self._TEXT.match(node.text)):
            try:
                # Any white space may stand before the unit here.
                size = parse_size("".join(match[1].split()))
            except ValueError:
                size = None
        if size is None or not self._least <= size <= U64:
            rule = "is not a size (bytes, or a number with K, M, G, T, KiB, MiB, GiB, TiB)"
            raise context.invalid(node, path, f"{context.describe(node)} {rule}")
        return size

    def dump(self, value: int, *, tagged: bool) -> int:
        """Return the bytes."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema: an integer or a text."""
        pattern = r"^\s*[0-9]+\s*([KMGTkmgt]([iI]?[bB])?|[bB])?\s*$"
        number = Integer(self._least, U64).schema()
        return {"oneOf": [number, {"type": "string", "pattern": pattern}]}


_ORDER: Final = {permission: index for index, permission in enumerate(Permission)}


class PermissionSet(Kind[Permissions]):
    """`full`, or a list of permissions."""

    __slots__ = ("_hint", "_list", "_rule")

    def __init__(
        self,
        rule: str = "is neither 'full' nor a list of permissions",
        item: str = "a permission",
        *,
        hint: str | None = None,
    ) -> None:
        self._rule = rule
        self._hint = hint
        self._list = ListOf(frozenset, Choice(Permission, item), order=_ORDER.__getitem__)

    def read(self, node: Node, path: Path, context: Context[Any]) -> Permissions:
        """Return the permissions."""
        if type(node) is not Scalar:
            return self._list.read(node, path, context)
        if node.text.strip() == "full":
            return FULL
        # Nothing after the key is no list here: it would be a console that may do nothing,
        # which is to be asked for in so many words.
        what = "nothing" if is_empty(node) else context.describe(node)
        raise context.invalid(node, path, f"{what} {self._rule}", hint=self._hint)

    def dump(self, value: Permissions, *, tagged: bool) -> Any:
        """Return `full`, or the list."""
        return "full" if value == FULL else self._list.dump(value, tagged=tagged)

    def schema(self) -> dict[str, Any]:
        """Return the schema: `full` or the list."""
        return {"oneOf": [{"const": "full"}, self._list.schema()]}

    def parts(self) -> list[Kind[Any]]:
        """Return the kind of the list."""
        return [self._list]


_NAME_SCHEMA: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1024,
    "pattern": r"^(?!\.{1,2}$)[0-9A-Za-z._-]+$",
}

NAME: Final = Parsed(Name, _NAME_SCHEMA)
"""The name of a container."""

STRICT_NAME: Final = Parsed(Name, _NAME_SCHEMA, strict=True)
"""The same where a number is none."""

VERSION: Final = Parsed(
    Version.parse,
    {
        "type": "string",
        "pattern": r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]+)?$",
    },
)
"""The version of a container."""

REQUIREMENT: Final = Parsed(VersionReq.parse, {"type": "string", "minLength": 1}, strict=True)
"""A version requirement. `1.2` without quotes is a number of YAML, which 1.20 is too: refused."""
