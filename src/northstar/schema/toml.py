"""TOML files of an operator: errors name the file and the line, in the words of TOML."""

from __future__ import annotations

import bisect
import re
import tomllib
from typing import Any, Final, TypeVar

from northstar.model import NorthstarError
from northstar.schema.context import Context, Path
from northstar.schema.documents import parse_toml
from northstar.schema.node import NESTING_MAX, Literal, Mapping, Node, Scalar
from northstar.schema.scalars import Kind

T = TypeVar("T")
E = TypeVar("E", bound=NorthstarError)

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


class TomlContext(Context[E]):
    """A reading of a TOML file.

    Attributes:
        origin: names the file in errors.
    """

    __slots__ = ("_lines", "_make", "_text", "origin")

    def __init__(self, text: str, origin: str, make: type[E]) -> None:
        super().__init__()
        self._text = text
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._make = make
        self.origin = origin

    def value(self, kind: Kind[T]) -> T:
        """Return the file's value.

        Raises:
            NorthstarError: the text is no TOML, or breaks a rule; of the class that was given.
        """
        value = self.read(kind, lambda: parse_toml(self._text, self))
        if self.errors:
            raise self.errors[0]
        assert value is not None, "a document without errors has a value"
        return value

    def error(
        self,
        rule: str,
        *,
        path: Path = (),
        line: int | None = None,
        column: int | None = None,  # noqa: ARG002 - the line is enough
        hint: str | None = None,
    ) -> E:
        """Make an error that names the line, and always has a hint."""
        keys = _keys(path)
        line = line or toml_line(self._lines, keys)
        place = self.origin if line is None else f"{self.origin}, line {line}"
        rule = f"{_dotted(keys)}: {rule}" if keys else rule
        return self._make(f"{place}: {rule}", hint=hint or "correct the value")

    def show(self, text: str) -> str:
        """Quote a text: whole, for the file is the operator's own."""
        return repr(text)

    def describe(self, node: Node) -> str:
        """Name a value by itself."""
        return repr(_builtins(node))

    def too_deep(self, line: int | None = None, column: int | None = None) -> E:
        """Make the error for a document of too many levels."""
        rule = f"nested too deeply (at most {NESTING_MAX} levels)"
        return self.error(rule, line=line, column=column, hint="remove levels of brackets")

    def not_a_map(self, node: Node, path: Path) -> E:
        """Make the error for a value where a table is wanted."""
        hint = f"write [{_dotted(_keys(path))}]"
        return self.invalid(node, path, "must be a table", hint=hint)

    def not_a_list(self, node: Node, path: Path) -> E:
        """Make the error for a value where an array is wanted."""
        rule = f"{self.describe(node)} is not an array"
        return self.invalid(node, path, rule, hint='write it as ["..", ".."]')

    def missing(self, node: Node, path: Path) -> E:
        """Make the error for a key that the table lacks."""
        return self.invalid(node, path, "is missing", hint="add it")

    def unknown(self, key: Node, path: Path, hint: str | None) -> E:
        """Make the error for an unknown key."""
        return self.invalid(key, path, "unknown key", hint=hint or "remove it")

    def ignore(self, key: Node, path: Path) -> None:
        """Note a warning about an unknown key."""
        self.warnings.append(self.invalid(key, path, "unknown key, ignored").message)


def toml_line(lines: list[str], path: tuple[str, ...]) -> int | None:
    """Return the line, from 1, on which the statement that gives the value at `path` begins.

    Of a path that is not there it is the nearest table's, or None where that is the document.

    tomllib tells no positions. But a prefix of lines is TOML of its own exactly when it does not
    end within a statement, and once the path is there it stays there: the first such prefix that
    has it ends with its statement, and bisection finds it. A line more or less never gives a wrong
    answer, as a scanner of our own would with strings over many lines. It takes as long as some
    ten readings of the file: not for files of others.
    """
    if not path:
        return None

    def complete(count: int) -> tuple[int, Any]:
        while True:
            try:
                return count, tomllib.loads("\n".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                count -= 1

    end = 1 + bisect.bisect_left(
        range(1, len(lines) + 1), True, key=lambda count: _has(complete(count)[1], path)
    )
    return complete(end - 1)[0] + 1 if end <= len(lines) else toml_line(lines, path[:-1])


def _has(value: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _keys(path: Path) -> tuple[str, ...]:
    """Return the keys that lead to the value or to the array that it is in."""
    first_index = next((i for i, part in enumerate(path) if isinstance(part, int)), None)
    return path[:first_index]


def _dotted(keys: tuple[str, ...]) -> str:
    return ".".join(key if _BARE_KEY.match(key) else repr(key) for key in keys)


def _builtins(node: Node) -> Any:
    if type(node) is Scalar:
        return node.text
    if type(node) is Literal:
        return node.value
    if type(node) is Mapping:
        return {_builtins(key): _builtins(value) for key, value in node.pairs}
    return [_builtins(item) for item in getattr(node, "items", ())]
