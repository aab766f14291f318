"""The document as read, before its fields have types: what YAML, JSON and TOML have in common.

A scalar of YAML keeps its source text, since what it is depends on what is wanted: `THREADS: 4`
is a string in `env`, `uid: 4` a number. JSON and TOML give their scalars a type of their own.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from northstar.model import ManifestError

INPUT_MAX: Final = 1024 * 1024
"""Largest manifest in bytes, also after the expansion of aliases."""

NODES_MAX: Final = 100_000
"""Most scalars, maps and lists, each alias counted as what it stands for."""

NESTING_MAX: Final = 64
"""Deepest nesting of maps and lists."""

_SHOWN_MAX: Final = 64


class Mark(Protocol):
    """A place in the text; line and column count from 0."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True, gc=False):
    """Text: a scalar of YAML, or a string of JSON or TOML (which is as one in quotes)."""

    text: str
    plain: bool
    tag: str | None = None
    mark: Any = None


class Literal(msgspec.Struct, frozen=True, gc=False):
    """A scalar of JSON or TOML with a type of its own: int, float, bool, None, or a date."""

    value: Any
    mark: Any = None
    tag: None = None


class Sequence(msgspec.Struct, frozen=True):
    """A list."""

    items: list[Node]
    tag: str | None = None
    mark: Any = None


class Mapping(msgspec.Struct, frozen=True):
    """A map as it is written: in order, duplicate keys and all."""

    pairs: list[tuple[Node, Node]]
    tag: str | None = None
    mark: Any = None


Node = Scalar | Literal | Sequence | Mapping

NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))
_NULL_TAG: Final = "tag:yaml.org,2002:null"


def is_empty(node: Node) -> bool:
    """Tell whether nothing stands after the key."""
    return type(node) is Scalar and not node.text and node.plain and node.tag is None


def is_null(node: Node) -> bool:
    """Tell whether nothing, or a null, stands after the key."""
    if type(node) is Scalar:
        return node.text in NULLS and node.plain and node.tag in (None, _NULL_TAG)
    return type(node) is Literal and node.value is None


def join(path: str, key: object) -> str:
    """Return the path of a member."""
    return f"{path}.{key}" if path else str(key)


def show(text: str) -> str:
    """Quote a text for a message: cut, and without control characters."""
    return repr(text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "...")


def describe(node: Node) -> str:
    """Name a node for a message."""
    if type(node) is Scalar:
        return show(node.text) if node.text or not node.plain else "nothing"
    if type(node) is Mapping:
        return "a map"
    if type(node) is Sequence:
        return "a list"
    if type(node) is Literal and isinstance(node.value, bool | None):
        return {True: "true", False: "false", None: "null"}[node.value]
    return str(node.value) if type(node) is Literal else "?"


def invalid(node: Node, path: str, rule: str, *, hint: str | None = None) -> ManifestError:
    """Make the error for `node`, which breaks `rule`."""
    mark: Mark | None = node.mark
    if not path.isprintable() or len(path) > 4 * _SHOWN_MAX:
        # A key comes from the document: it must not act on a terminal, or fill a log.
        path = path[: 4 * _SHOWN_MAX].encode("unicode_escape").decode()
    return ManifestError(
        rule,
        path=path,
        line=None if mark is None else mark.line + 1,
        column=None if mark is None else mark.column + 1,
        hint=hint,
    )


class Context:
    """What a reading found besides the value.

    Attributes:
        collect: go on after an error, to find them all.
        errors: the errors so far (at most one if not `collect`).
        warnings: what was ignored, and where; of very much the first, and how many more.
    """

    __slots__ = ("_more", "_warnings", "collect", "errors")

    ERRORS_MAX: Final = 100

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.errors: list[ManifestError] = []
        self._warnings: list[str] = []
        self._more = 0

    @property
    def warnings(self) -> list[str]:
        """What was ignored, for a log."""
        more = [f"{self._more} more like these"] if self._more else []
        return self._warnings + more

    def refuse(self, error: ManifestError) -> None:
        """Note an error and go on, or raise it if the first one is all that is asked for.

        Raises:
            ManifestError: the error.
        """
        if not isinstance(error, NotedError):
            self.errors.append(error)
        if not self.collect or len(self.errors) >= self.ERRORS_MAX:
            raise NotedError

    def warn(self, node: Node, path: str, text: str) -> None:
        """Note a warning."""
        if len(self._warnings) < self.ERRORS_MAX:
            self._warnings.append(str(invalid(node, path, text)))
        else:
            self._more += 1


class NotedError(ManifestError):
    """Carries no news: ends the reading of a value whose errors are noted in the context."""

    def __init__(self) -> None:
        super().__init__("refused")
