"""Kinds of scalars: each reads a node, writes a value, and describes itself for the JSON Schema.

One object of these says all there is to know about a value: so the reader, the writer and the
schema cannot disagree.
"""

# ruff: noqa: ARG002 - each kind takes what any kind may need

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from northstar.model import InvalidValueError
from northstar.schema.context import Context, Path
from northstar.schema.node import NULLS, Literal, Mapping, Node, Scalar, is_null

T = TypeVar("T")

U16: Final = 2**16 - 1
U32: Final = 2**32 - 1
U64: Final = 2**64 - 1
I64: Final = 2**63 - 1

CORE: Final = "tag:yaml.org,2002:"
"""What `!!` stands for in a tag of YAML."""

INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9A-Fa-f]+|0o[0-7]+|0b[01]+)\Z", re.ASCII)
FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
NOT_FINITE: Final = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9]+\Z", re.ASCII)

# 64 binary digits, prefix and sign. Longer ones are out of every range; and Python's int() takes
# its time for thousands of digits.
DIGITS_MAX: Final = 67

BOOLEANS: Final = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class Kind(Generic[T]):
    """How values of one kind are read and written.

    Attributes:
        unit: of the numbers, empty for what is no number.
    """

    __slots__ = ()

    unit = ""

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the value of `node`, which stands at `path`.

        Raises:
            NorthstarError: the node is none of this kind; made by the context.
        """
        raise NotImplementedError

    def dump(self, value: T, *, tagged: bool) -> Any:
        """Return `value` as builtins; variants as `Tagged` if `tagged`, else as one-key maps."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the serialised form."""
        raise NotImplementedError

    def parts(self) -> Iterable[Kind[Any]]:
        """Return the kinds that this one is made of."""
        return ()


def text_of(node: Node, path: Path, context: Context[Any]) -> str:
    """Return the text where a string is wanted. Tags that nobody knows are ignored there.

    Raises:
        NorthstarError: the node is no text.
    """
    if type(node) is Scalar:
        return node.text
    hint = "write it in quotes" if type(node) is Literal else None
    raise context.invalid(node, path, f"{context.describe(node)} is not a string", hint=hint)


def string_of(node: Node, path: Path, context: Context[Any]) -> str:
    """Return the text where only a string is one: not `1.2`, `true` or `~` without quotes.

    Raises:
        NorthstarError: the node is no string.
    """
    text = text_of(node, path, context)
    if type(node) is Scalar and node.plain and node.tag != CORE + "str" and not is_string(text):
        rule, hint = f"{context.describe(node)} is not a string", "write a string, in quotes"
        raise context.invalid(node, path, rule, hint=hint)
    return text


def is_string(text: str) -> bool:
    """Tell whether a scalar of YAML without quotes and tag is a string (YAML 1.2.2, 10.3.2).

    A number with a leading zero is one: nobody agrees on what it counts to.
    """
    if text in NULLS or text in BOOLEANS or INTEGER.match(text) or NOT_FINITE.match(text):
        return False
    return FLOAT.match(text) is None or LEADING_ZERO.match(text) is not None


class Text(Kind[str]):
    """A string without NUL, as everything is that goes to the kernel."""

    __slots__ = ("_check", "_hint", "_max", "_min", "_of", "_schema", "_what")

    def __init__(
        self,
        what: str = "a string",
        *,
        least: int = 0,
        most: int | None = None,
        check: Callable[[str], str | None] | None = None,
        pattern: str | None = None,
        hint: str | None = None,
        strict: bool = False,
    ) -> None:
        """Take texts of `least` to `most` bytes.

        Args:
            what: the noun for messages.
            least: fewest bytes.
            most: most bytes.
            check: returns the rule that a text breaks, or None.
            pattern: the same rule for the schema, as far as a pattern can tell.
            hint: what to write instead of a text that is refused.
            strict: take strings only (see `string_of`).
        """
        self._what = what
        self._min = least
        self._max = most
        self._check = check
        self._hint = hint
        self._of = string_of if strict else text_of
        self._schema: dict[str, Any] = {"type": "string"}
        if least:
            self._schema["minLength"] = least
        if most is not None:
            self._schema["maxLength"] = most
        if pattern is not None:
            self._schema["pattern"] = pattern

    def read(self, node: Node, path: Path, context: Context[Any]) -> str:
        """Return the text."""
        text = self._of(node, path, context)
        rule = None
        if "\0" in text:
            rule = f"{context.show(text)} has a NUL character, which {self._what} cannot"
        elif self._min or self._max is not None:
            length = len(text) if text.isascii() else len(text.encode())
            if length < self._min:
                rule = f"{self._what} must not be empty"
            elif self._max is not None and length > self._max:
                rule = f"{self._what} of {length} bytes is too long (at most {self._max})"
        if rule is None and self._check is not None and (broken := self._check(text)) is not None:
            rule = f"{context.show(text)} {broken}"
        if rule is not None:
            raise context.invalid(node, path, rule, hint=self._hint)
        return text

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

    __slots__ = ("_of", "_parse", "_schema")

    def __init__(
        self, parse: Callable[[str], T], schema: dict[str, Any], *, strict: bool = False
    ) -> None:
        self._parse = parse
        self._schema = schema
        self._of = string_of if strict else text_of

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the parsed value."""
        text = self._of(node, path, context)
        try:
            return self._parse(text)
        except InvalidValueError as error:
            # The message quotes the text, which may be a megabyte.
            rule = error.message.replace(repr(text), context.show(text))
            raise context.invalid(node, path, rule, hint=error.hint) from None

    def dump(self, value: T, *, tagged: bool) -> str:
        """Return the display form."""
        return str(value)

    def schema(self) -> dict[str, Any]:
        """Return the schema of the text."""
        return dict(self._schema)


class Integer(Kind[int]):
    """An integer: decimal, `0x..`, `0o..` or `0b..`, perhaps with a sign, never in quotes."""

    __slots__ = ("_least", "_most", "_what", "unit")

    def __init__(self, least: int, most: int, what: str = "an integer", *, unit: str = "") -> None:
        self._least = least
        self._most = most
        self._what = what
        self.unit = unit

    def read(self, node: Node, path: Path, context: Context[Any]) -> int:
        """Return the integer."""
        value = integer_of(node)
        if value is None or not self._least <= value <= self._most:
            bounds = f"({self._least} to {self._most})"
            rule = f"{context.describe(node)} is not {self._what} {bounds}"
            if type(node) is Literal and value is not None and self._what == "an integer":
                rule = f"{value} is out of range {bounds}"
            quoted = type(node) is Scalar and not node.plain and INTEGER.match(node.text)
            hint = "write it without quotes" if quoted else None
            raise context.invalid(node, path, rule, hint=hint)
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

    def read(self, node: Node, path: Path, context: Context[Any]) -> bool:
        """Return the truth value."""
        if type(node) is Literal and type(node.value) is bool:
            return node.value
        if type(node) is Scalar and node.plain and node.tag in (None, CORE + "bool"):
            value = BOOLEANS.get(node.text)
            if value is not None:
                return value
        raise context.invalid(
            node, path, f"{context.describe(node)} is not a boolean (true or false)"
        )

    def schema(self) -> dict[str, Any]:
        """Return the schema of a boolean."""
        return {"type": "boolean"}


class Choice(Kind[T]):
    """One of several names: the values of an enumeration, or texts. `!name` is as `name`."""

    __slots__ = ("_is_enum", "_members", "_what")

    def __init__(self, members: Iterable[T], what: str) -> None:
        self._is_enum = isinstance(members, enum.EnumMeta)
        self._members: dict[str, T] = {
            self.dump(member, tagged=False): member for member in members
        }
        self._what = what

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the member."""
        name, content = variant_of(node, path, context)
        member = self._members.get(name)
        bare = content is None or is_null(content)
        if member is None or not bare:
            shown = context.show(name) if bare else context.describe(node)
            rule = f"{shown} is not {self._what} ({', '.join(self._members)})"
            raise context.invalid(node, path, rule)
        return member

    def dump(self, value: Any, *, tagged: bool) -> str:
        """Return the member's name."""
        return str(value.value if self._is_enum else value)

    def schema(self) -> dict[str, Any]:
        """Return the schema of the names."""
        return {"enum": list(self._members)}


def variant_of(node: Node, path: Path, context: Context[Any]) -> tuple[str, Node | None]:
    """Return a variant's name and what it carries, None for nothing at all.

    It is written `name`, `!name DATA` (YAML), or as the map `{name: DATA}`.

    Raises:
        NorthstarError: the node is none of these.
    """
    tag = node.tag
    if tag is not None and tag.startswith("!") and len(tag) > 1:
        if type(node) is Scalar:
            return tag[1:], Scalar(node.text, node.plain, None, node.mark)
        if type(node) is Mapping:
            return tag[1:], Mapping(node.pairs, None, node.mark)
        rule = f"{context.describe(node)} cannot have the tag {context.show(tag)}"
        raise context.invalid(node, path, rule)
    if type(node) is Scalar:
        return node.text, None
    if type(node) is Mapping and len(node.pairs) == 1:
        key, content = node.pairs[0]
        return text_of(key, path, context), content
    rule = f"{context.describe(node)} is not a name, or a map of one name to its data"
    raise context.invalid(node, path, rule)
