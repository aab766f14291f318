"""TOML files of an operator. Errors name the file and the line, and use the terms of TOML."""

from __future__ import annotations

import bisect
import tomllib
from functools import partial
from typing import Any, Final, TypeVar

from northstar.model import NorthstarError
from northstar.model.pattern import Pattern
from northstar.model.text import NAMED_MAX
from northstar.schema.context import Context, Hint, Path, Place, Words
from northstar.schema.documents import parse_toml
from northstar.schema.node import NESTING_MAX, Literal, Mapping, Node, Scalar, Sequence
from northstar.schema.scalars import Kind

T = TypeVar("T")
E = TypeVar("E", bound=NorthstarError)

_BARE_KEY: Final = Pattern(r"[A-Za-z0-9_-]+\Z")

_READINGS_MAX: Final = 100
"""Most readings of a file to find a line in it."""


class TomlContext(Context[E]):
    """State of reading a TOML file."""

    words = Words(
        not_a_map="must be a table",
        not_a_list="{} is not an array",
        missing="is missing",
        unknown="unknown key",
        ignored="unknown key, ignored",
        too_deep=f"nested too deeply (at most {NESTING_MAX} levels)",
    )

    # Finding a line is slow, and a table with very many unknown keys is not for this program.
    WARNINGS_MAX = NAMED_MAX

    def __init__(self, text: str, origin: str, error: type[E]) -> None:
        """Prepare to read `text`. `origin` is the name of the file for errors of class `error`."""
        super().__init__()
        self._text = text
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._origin = origin
        self._error = error

    def document(self, kind: Kind[T]) -> T:
        """Return the file's value.

        Raises:
            NorthstarError: the text is not TOML, or breaks a rule; of the class `error`.
        """
        return self.value(kind, lambda: parse_toml(self._text, self))

    def error(self, rule: str, path: Path = (), place: Place = None, hint: Hint = None) -> E:
        """Make an error that names the line, and always has a hint."""
        # All items of an array are in one statement, so only keys lead to a line.
        keys = tuple(key for key in path if isinstance(key, str))
        if not keys:
            where = "" if place is None else f", line {place[0]}, column {place[1]}"
            return self._error(f"{self._origin}: {rule}{where}", hint=hint or "correct the syntax")
        line = toml_line(self._lines, keys)
        origin = self._origin if line is None else f"{self._origin}, line {line}"
        dotted = ".".join(key if _BARE_KEY.match(key) else repr(key) for key in keys)
        return self._error(f"{origin}: {dotted}: {rule}", hint=hint or "correct the value")

    def show(self, text: str) -> str:
        """Quote a text uncut: the file belongs to the operator."""
        return repr(text)

    def describe(self, node: Node) -> str:
        """Return the value as Python writes it."""
        return repr(_builtins(node))


class _TooManyReadingsError(Exception):
    """The line is not found with `_READINGS_MAX` readings."""


class _Prefixes:
    """Reads prefixes of a file, as many as `_READINGS_MAX`."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._readings = 0

    def complete(self, count: int) -> tuple[int, dict[str, Any]]:
        """Return the longest prefix of at most `count` lines that is TOML: its length and value."""
        while True:
            self._readings += 1
            if self._readings > _READINGS_MAX:
                raise _TooManyReadingsError
            try:
                return count, tomllib.loads("\n".join(self._lines[:count]))
            except tomllib.TOMLDecodeError:
                # The prefix ends within a statement. The longest complete prefix ends before the
                # first line of that statement, which has a `=` or is the header of a table.
                count -= 1
                while "=" not in self._lines[count] and self._lines[count].lstrip()[:1] != "[":
                    count -= 1

    def contain(self, path: tuple[str, ...], count: int) -> bool:
        """Return whether the longest complete prefix of at most `count` lines has `path`."""
        return _has(self.complete(count)[1], path)


def toml_line(lines: list[str], path: tuple[str, ...]) -> int | None:
    """Return the first line, counted from 1, of the statement that sets the value at `path`.

    For a path that does not exist, return the line of the nearest table above it; None if that is
    the document. Return None too if the search needs more than `_READINGS_MAX` readings, because a
    statement has very many lines.

    tomllib reports no positions. But a prefix of lines is TOML exactly if it does not end within a
    statement, and each longer prefix has all paths of a shorter one: bisection finds the shortest
    prefix with the path, which ends with its statement. A separate scanner could disagree with
    tomllib about multi-line strings. The search is slow: only for the files of an operator.
    """
    prefixes = _Prefixes(lines)
    try:
        for length in range(len(path), 0, -1):
            part = path[:length]
            end = 1 + bisect.bisect_left(
                range(1, len(lines) + 1),
                True,
                key=partial(prefixes.contain, part),
            )
            if end <= len(lines):
                return prefixes.complete(end - 1)[0] + 1
    except _TooManyReadingsError:
        pass
    return None


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
