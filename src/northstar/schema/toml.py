"""TOML files of an operator: errors name the file and the line, in the words of TOML."""

from __future__ import annotations

import bisect
import re
import tomllib
from typing import Any, Final, TypeVar

from northstar.model import NorthstarError
from northstar.model.text import NAMED_MAX
from northstar.schema.context import Context, Hint, Path, Place, Words
from northstar.schema.documents import parse_toml
from northstar.schema.node import NESTING_MAX, Literal, Mapping, Node, Scalar, Sequence
from northstar.schema.scalars import Kind

T = TypeVar("T")
E = TypeVar("E", bound=NorthstarError)

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


class TomlContext(Context[E]):
    """A reading of a TOML file."""

    words = Words(
        not_a_map="must be a table",
        not_a_list="{} is not an array",
        missing="is missing",
        unknown="unknown key",
        ignored="unknown key, ignored",
        too_deep=f"nested too deeply (at most {NESTING_MAX} levels)",
    )

    # To find a line takes long, and a table with very many unknown keys is none of this program.
    WARNINGS_MAX = NAMED_MAX

    def __init__(self, text: str, origin: str, error: type[E]) -> None:
        """Prepare a reading of `text`; `origin` names the file in errors of the class `error`."""
        super().__init__()
        self._text = text
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._origin = origin
        self._error = error

    def document(self, kind: Kind[T]) -> T:
        """Return the file's value.

        Raises:
            NorthstarError: the text is no TOML, or breaks a rule; of the class that was given.
        """
        return self.value(kind, lambda: parse_toml(self._text, self))

    def error(self, rule: str, path: Path = (), place: Place = None, hint: Hint = None) -> E:
        """Make an error that names the line, and always has a hint."""
        # Items of an array stand in one statement; only keys can be found.
        keys = tuple(key for key in path if isinstance(key, str))
        if not keys:
            where = "" if place is None else f", line {place[0]}, column {place[1]}"
            return self._error(f"{self._origin}: {rule}{where}", hint=hint or "correct the syntax")
        line = toml_line(self._lines, keys)
        origin = self._origin if line is None else f"{self._origin}, line {line}"
        dotted = ".".join(key if _BARE_KEY.match(key) else repr(key) for key in keys)
        return self._error(f"{origin}: {dotted}: {rule}", hint=hint or "correct the value")

    def show(self, text: str) -> str:
        """Quote a text: whole, for the file is the operator's own."""
        return repr(text)

    def describe(self, node: Node) -> str:
        """Name a value by itself."""
        return repr(_builtins(node))


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


def _builtins(node: Node) -> Any:
    match node:
        case Scalar():
            return node.text
        case Literal():
            return node.value
        case Mapping():
            return {_builtins(key): _builtins(value) for key, value in node.pairs}
        case Sequence():
            return [_builtins(item) for item in node.items]
