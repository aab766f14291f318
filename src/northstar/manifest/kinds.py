"""Kinds of scalars: each reads a node, writes a value, and describes itself for the JSON Schema.

One object of these says all there is to know about a field: so the reader, the writer and the
schema cannot disagree.
"""

# ruff: noqa: ARG002 - each kind takes what any kind may need

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from northstar.manifest.node import (
    Context,
    Literal,
    Mapping,
    Node,
    Scalar,
    describe,
    invalid,
    is_null,
    show,
)
from northstar.model import InvalidValueError

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

U16: Final = 2**16 - 1
U32: Final = 2**32 - 1
U64: Final = 2**64 - 1
I64: Final = 2**63 - 1

CORE: Final = "tag:yaml.org,2002:"
"""What `!!` stands for in a tag of YAML."""

INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9A-Fa-f]+|0o[0-7]+|0b[01]+)\Z", re.ASCII)
# 64 binary digits, prefix and sign. Longer ones are out of every range; and Python's int() takes
# its time for thousands of digits.
DIGITS_MAX: Final = 67

BOOLEANS: Final = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class Kind(Generic[T]):
    """How values of one kind are read and written."""

    __slots__ = ()

    def read(self, node: Node, path: str, context: Context) -> T:
        """Return the value of `node`, which stands at `path`.

        Raises:
            ManifestError: the node is none of this kind.
        """
        raise NotImplementedError

    def dump(self, value: T, *, tagged: bool) -> Any:
        """Return `value` as builtins; variants as `Tagged` if `tagged`, else as one-key maps."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the serialised form."""
        raise NotImplementedError


def text_of(node: Node, path: str) -> str:
    """Return the text where a string is wanted. Tags that nobody knows are ignored there.

    Raises:
        ManifestError: the node is no text.
    """
    if type(node) is Scalar:
        return node.text
    hint = "write it in quotes" if type(node) is Literal else None
    raise invalid(node, path, f"{describe(node)} is not a string", hint=hint)


class Text(Kind[str]):
    """A string without NUL, as everything is that goes to the kernel."""

    __slots__ = ("_check", "_max", "_min", "_schema", "_what")

    def __init__(
        self,
        what: str = "a string",
        *,
        least: int = 0,
        most: int | None = None,
        check: Callable[[str], str | None] | None = None,
        pattern: str | None = None,
    ) -> None:
        """Take texts of `least` to `most` bytes.

        Args:
            what: the noun for messages.
            least: fewest bytes.
            most: most bytes.
            check: returns the rule that a text breaks, or None.
            pattern: the same rule for the schema, as far as a pattern can tell.
        """
        self._what = what
        self._min = least
        self._max = most
        self._check = check
        self._schema: dict[str, Any] = {"type": "string"}
        if least:
            self._schema["minLength"] = least
        if most is not None:
            self._schema["maxLength"] = most
        if pattern is not None:
            self._schema["pattern"] = pattern

    def read(self, node: Node, path: str, context: Context) -> str:
        """Return the text."""
        text = text_of(node, path)
        if "\0" in text:
            raise invalid(
                node, path, f"{show(text)} has a NUL character, which {self._what} cannot"
            )
        if self._min or self._max is not None:
            length = len(text) if text.isascii() else len(text.encode())
            if length < self._min:
                raise invalid(node, path, f"{self._what} must not be empty")
            if self._max is not None and length > self._max:
                raise invalid(
                    node, path, f"{self._what} of {length} bytes is too long (at most {self._max})"
                )
        if self._check is not None and (rule := self._check(text)) is not None:
            raise invalid(node, path, f"{show(text)} {rule}")
        return text

    def dump(self, value: str, *, tagged: bool) -> str:
        """Return the text."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of a string."""
        return dict(self._schema)


def file_name_rule(text: str) -> str | None:
    """Return the rule that `text` breaks if it is no single path component."""
    if not text or "/" in text or text in (".", ".."):
        return "is not a file name (not empty, no '/', not '.' or '..')"
    return None


FILE_NAME_PATTERN: Final = r"^(?!\.{1,2}$)[^/]+$"


class Parsed(Kind[T]):
    """A value that its own type reads from text: a name, a version, a requirement."""

    __slots__ = ("_parse", "_schema")

    def __init__(self, parse: Callable[[str], T], schema: dict[str, Any]) -> None:
        self._parse = parse
        self._schema = schema

    def read(self, node: Node, path: str, context: Context) -> T:
        """Return the parsed value."""
        text = text_of(node, path)
        try:
            return self._parse(text)
        except InvalidValueError as error:
            # The message quotes the text, which may be a megabyte.
            rule = error.message.replace(repr(text), show(text))
            raise invalid(node, path, rule) from None

    def dump(self, value: T, *, tagged: bool) -> str:
        """Return the display form."""
        return str(value)

    def schema(self) -> dict[str, Any]:
        """Return the schema of the text."""
        return dict(self._schema)


class Integer(Kind[int]):
    """An integer: decimal, `0x..`, `0o..` or `0b..`, perhaps with a sign, never in quotes."""

    __slots__ = ("_least", "_most", "_what")

    def __init__(self, least: int, most: int, what: str = "an integer") -> None:
        self._least = least
        self._most = most
        self._what = what

    def read(self, node: Node, path: str, context: Context) -> int:
        """Return the integer."""
        value = integer_of(node)
        if value is None or not self._least <= value <= self._most:
            quoted = type(node) is Scalar and not node.plain and INTEGER.match(node.text)
            raise invalid(
                node,
                path,
                f"{describe(node)} is not {self._what} ({self._least} to {self._most})",
                hint="write it without quotes" if quoted else None,
            )
        return value

    def dump(self, value: int, *, tagged: bool) -> int:
        """Return the integer."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of the range."""
        return {"type": "integer", "minimum": self._least, "maximum": self._most}


def integer_of(node: Node) -> int | None:
    """Return the integer that `node` is, or None."""
    if type(node) is Scalar:
        if (
            node.plain
            and len(node.text) <= DIGITS_MAX
            and INTEGER.match(node.text)
            and node.tag in (None, CORE + "int")
        ):
            return int(node.text, 0)
    elif type(node) is Literal and type(node.value) is int:
        return node.value
    return None


class Boolean(Kind[bool]):
    """`true` or `false`."""

    __slots__ = ()

    def read(self, node: Node, path: str, context: Context) -> bool:
        """Return the truth value."""
        if type(node) is Literal and type(node.value) is bool:
            return node.value
        if type(node) is Scalar and node.plain and node.tag in (None, CORE + "bool"):
            value = BOOLEANS.get(node.text)
            if value is not None:
                return value
        raise invalid(node, path, f"{describe(node)} is not a boolean (true or false)")

    def dump(self, value: bool, *, tagged: bool) -> bool:
        """Return the truth value."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of a boolean."""
        return {"type": "boolean"}


class Choice(Kind[E]):
    """One of the names that are the values of an enumeration; `!name` is the same as `name`."""

    __slots__ = ("_members", "_what")

    def __init__(self, members: type[E], what: str) -> None:
        self._members: dict[str, E] = {str(member.value): member for member in members}
        self._what = what

    def read(self, node: Node, path: str, context: Context) -> E:
        """Return the member."""
        name, content = variant_of(node, path)
        member = self._members.get(name)
        if member is None or not (content is None or is_null(content)):
            raise invalid(
                node, path, f"{show(name)} is not {self._what} ({', '.join(self._members)})"
            )
        return member

    def dump(self, value: E, *, tagged: bool) -> str:
        """Return the member's name."""
        return str(value.value)

    def schema(self) -> dict[str, Any]:
        """Return the schema of the names."""
        return {"enum": list(self._members)}


def variant_of(node: Node, path: str) -> tuple[str, Node | None]:
    """Return a variant's name and what it carries, None for nothing at all.

    It is written `name`, `!name DATA` (YAML), or as the map `{name: DATA}`.

    Raises:
        ManifestError: the node is none of these.
    """
    tag = node.tag
    if tag is not None and tag.startswith("!") and len(tag) > 1:
        if type(node) is Scalar:
            return tag[1:], Scalar(node.text, node.plain, None, node.mark)
        if type(node) is Mapping:
            return tag[1:], Mapping(node.pairs, None, node.mark)
        raise invalid(node, path, f"{describe(node)} cannot have the tag {show(tag)}")
    if type(node) is Scalar:
        return node.text, None
    if type(node) is Mapping and len(node.pairs) == 1:
        key, content = node.pairs[0]
        return text_of(key, path), content
    raise invalid(node, path, f"{describe(node)} is not a name, or a map of one name to its data")
