"""Kinds of scalars: each reads a node, writes a value, and returns its JSON Schema.

Reader, writer and schema of a value are one object, so that they cannot disagree.
"""

# ruff: noqa: ARG002 - all kinds have the same parameters

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from northstar.model import InvalidValueError, NorthstarError
from northstar.model.pattern import Pattern
from northstar.schema.context import Context, Path
from northstar.schema.node import INPUT_MAX, NULLS, Literal, Mapping, Node, Scalar

T = TypeVar("T")

U16: Final = 2**16 - 1
U32: Final = 2**32 - 1
U64: Final = 2**64 - 1
I64: Final = 2**63 - 1

CORE: Final = "tag:yaml.org,2002:"
"""The prefix that `!!` abbreviates in a tag of YAML."""

_STRING: Final = CORE + "str"

INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9A-Fa-f]+|0o[0-7]+|0b[01]+)\Z", re.ASCII)
FLOAT: Final = Pattern(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
NOT_FINITE: Final = Pattern(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
LEADING_ZERO: Final = Pattern(r"[-+]?0[0-9]+\Z", re.ASCII)

# 64 binary digits, prefix and sign. Longer ones are out of every range, and int() is slow for
# thousands of digits.
DIGITS_MAX: Final = 67

BOOLEANS: Final = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class Kind(Generic[T]):
    """How values of one kind are read and written.

    Attributes:
        unit: unit of the numbers; empty if the values are not numbers.
        parts: the kinds inside this one.
    """

    unit: str = ""
    parts: tuple[Kind[Any], ...] = ()

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the value of `node` at `path`.

        Raises:
            NorthstarError: the node is not of this kind. The context makes the error.
        """
        raise NotImplementedError

    def dump(self, value: T, *, tagged: bool) -> Any:
        """Return `value` as builtins; variants as `Tagged` if `tagged`, else as one-key maps."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the serialised form."""
        raise NotImplementedError


def text_of(node: Node, path: Path, context: Context[Any]) -> str:
    """Return the text of a string. Unknown tags are ignored.

    Raises:
        NorthstarError: the node is not a string.
    """
    if type(node) is Scalar:
        return node.text
    hint = "write it in quotes" if type(node) is Literal else "write a text"
    raise context.invalid(node, path, f"{context.describe(node)} is not a string", hint=hint)


def require_string(node: Node, path: Path, context: Context[Any]) -> None:
    """Refuse unquoted scalars that YAML does not read as strings: `1.2`, `true` or `~`.

    Raises:
        NorthstarError: the node is not a string.
    """
    if type(node) is Scalar and node.plain and node.tag != _STRING and not is_string(node.text):
        rule, hint = f"{context.describe(node)} is not a string", "write a string, in quotes"
        raise context.invalid(node, path, rule, hint=hint)


def is_string(text: str) -> bool:
    """Return whether a scalar of YAML without quotes and tag is a string (YAML 1.2.2, 10.3.2).

    A number with a leading zero is a string: it is octal in YAML 1.1 and decimal in YAML 1.2.
    """
    if text in NULLS or text in BOOLEANS or INTEGER.match(text) or NOT_FINITE.match(text):
        return False
    return FLOAT.match(text) is None or LEADING_ZERO.match(text) is not None


class Parsed(Kind[T]):
    """A value that is parsed from a text: a name, a version, a duration."""

    def __init__(
        self,
        parse: Callable[[str], T],
        schema: dict[str, Any],
        *,
        form: Callable[[T], str] = str,
        unit: str = "",
        strict: bool = False,
    ) -> None:
        """Describe a text.

        Args:
            parse: returns the value, or raises InvalidValueError.
            schema: the JSON Schema of the text.
            form: returns the text of a value.
            unit: unit of the value.
            strict: accept strings only (see `require_string`).
        """
        self._parse = parse
        self._schema = schema
        self._form = form
        self.unit = unit
        self._strict = strict

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the parsed value."""
        text = node.text if type(node) is Scalar else text_of(node, path, context)
        if self._strict:
            require_string(node, path, context)
        try:
            return self._parse(text)
        except InvalidValueError as error:
            # The message quotes the text uncut, which may be a megabyte.
            rule = error.message.replace(repr(text), context.show(text))
            raise context.invalid(node, path, rule, hint=error.hint) from None

    def dump(self, value: T, *, tagged: bool) -> str:
        """Return the text."""
        return self._form(value)

    def schema(self) -> dict[str, Any]:
        """Return the schema of the text."""
        return dict(self._schema)


class Text(Parsed[str]):
    """A string without NUL: a C string, which system calls take, cannot contain one."""

    def __init__(
        self,
        what: str = "a string",
        *,
        least: int = 0,
        most: int = INPUT_MAX,
        check: Callable[[str], str | None] | None = None,
        pattern: str = "",
        hint: str | None = None,
        strict: bool = False,
    ) -> None:
        """Accept texts of `least` to `most` bytes.

        Args:
            what: the noun for messages.
            least: fewest bytes.
            most: most bytes.
            check: returns the rule that a text breaks, or None.
            pattern: the same rule for the schema, as far as a pattern can express it.
            hint: what to write instead of a text that is refused.
            strict: accept strings only (see `require_string`).
        """

        def refused(rule: str) -> InvalidValueError:
            return InvalidValueError(rule, hint=hint)

        def checked(text: str) -> str:
            if "\0" in text:
                raise refused(f"{text!r} has a NUL character, which {what} cannot")
            if len(text) < least:
                raise refused(f"{what} must not be empty")
            if len(text) * 4 > most and (length := len(text.encode())) > most:
                raise refused(f"{what} of {length} bytes is too long (at most {most})")
            if check is not None and (rule := check(text)) is not None:
                raise refused(f"{text!r} {rule}")
            return text

        schema = {"type": "string", "minLength": least, "maxLength": most, "pattern": pattern}
        absent = {"minLength": 0, "maxLength": INPUT_MAX, "pattern": ""}
        schema = {name: value for name, value in schema.items() if value != absent.get(name)}
        super().__init__(checked, schema, strict=strict)


def _file_name_rule(text: str) -> str | None:
    if not text or "/" in text or text in (".", ".."):
        return "is not a file name (not empty, no '/', not '.' or '..')"
    return None


def file_name(what: str, most: int, *, least: int = 0) -> Text:
    """Return the kind of a single path component of `least` to `most` bytes."""
    pattern = r"^(?!\.{1,2}$)[^/]+$"
    return Text(what, least=least, most=most, check=_file_name_rule, pattern=pattern)


class Integer(Kind[int]):
    """An integer without quotes: decimal, `0x..`, `0o..` or `0b..`, with an optional sign."""

    def __init__(
        self,
        least: int,
        most: int,
        what: str = "an integer",
        *,
        unit: str = "",
        hint: str | None = None,
    ) -> None:
        """Accept `least` to `most`.

        Args:
            least: the lowest number.
            most: the highest number.
            what: the noun for messages.
            unit: unit of the number.
            hint: what to write instead of a value that is refused.
        """
        self._least = least
        self._most = most
        self._what = what
        self._bounds = f"({least} to {most})"
        self._hint = hint
        self.unit = unit

    def read(self, node: Node, path: Path, context: Context[Any]) -> int:
        """Return the integer."""
        value = integer_of(node)
        if value is None or not self._least <= value <= self._most:
            raise self._error(node, value, path, context)
        return value

    def _error(
        self, node: Node, value: int | None, path: Path, context: Context[Any]
    ) -> NorthstarError:
        rule = f"{context.describe(node)} is not {self._what}"
        if type(node) is Scalar and value is None:
            from northstar.schema import hints

            known = hints.integer(node.text, self.unit, self._least, self._most)
            if known is not None:
                # The value is known, so its range is not the problem.
                refused: NorthstarError = context.invalid(node, path, rule, hint=known)
                return refused
        if type(node) is Literal and value is not None and self._what == "an integer":
            rule = f"{value} is out of range"
        quoted = type(node) is Scalar and not node.plain and INTEGER.match(node.text)
        hint = self._hint or "write a number in this range"
        if quoted:
            hint = "write it without quotes"
        error = context.invalid(node, path, f"{rule} {self._bounds}", hint=hint)
        assert isinstance(error, NorthstarError)  # contexts of any error are Any here
        return error

    def schema(self) -> dict[str, Any]:
        """Return the schema of the range."""
        return {"type": "integer", "minimum": self._least, "maximum": self._most}


def integer_of(node: Node) -> int | None:
    """Return the integer of `node`; None if it is not an integer."""
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

    def read(self, node: Node, path: Path, context: Context[Any]) -> bool:
        """Return the truth value."""
        if type(node) is Literal and type(node.value) is bool:
            return node.value
        if type(node) is Scalar and node.plain and node.tag in (None, CORE + "bool"):
            value = BOOLEANS.get(node.text)
            if value is not None:
                return value
        rule = f"{context.describe(node)} is not a boolean (true or false)"
        quoted = type(node) is Scalar and not node.plain and node.text in BOOLEANS
        hint = "write it without quotes" if quoted else "write true or false"
        raise context.invalid(node, path, rule, hint=hint)

    def schema(self) -> dict[str, Any]:
        """Return the schema of a boolean."""
        return {"type": "boolean"}


def variant_of(node: Node, path: Path, context: Context[Any]) -> tuple[str, Node | None]:
    """Return the name and the data of a variant; None for the data if it has none.

    A variant is written `name`, `!name DATA` (YAML), or as the map `{name: DATA}`.

    Raises:
        NorthstarError: the node has none of these forms.
    """
    tag = node.tag
    if tag is not None and tag.startswith("!") and len(tag) > 1:
        if type(node) is Scalar:
            return tag[1:], Scalar(node.text, node.plain, None, node.mark)
        if type(node) is Mapping:
            return tag[1:], Mapping(node.pairs, None, node.mark)
        rule = f"{context.describe(node)} cannot have the tag {context.show(tag)}"
        raise context.invalid(node, path, rule, hint="remove the tag")
    if type(node) is Scalar:
        return node.text, None
    if type(node) is Mapping and len(node.pairs) == 1:
        key, content = node.pairs[0]
        return text_of(key, path, context), content
    rule = f"{context.describe(node)} is not a name, or a map of one name to its data"
    raise context.invalid(node, path, rule, hint="write one name")
