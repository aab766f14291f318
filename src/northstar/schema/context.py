"""Errors and warnings of reading a document.

Kinds decide what is refused. The place in an error (line, path), its wording and its class depend
on the document: manifests and TOML files have a subclass of `Context` each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from northstar.model import NorthstarError
from northstar.model.text import quote
from northstar.schema.node import NESTING_MAX, Node, describe

if TYPE_CHECKING:
    from northstar.schema.scalars import Kind

T = TypeVar("T")
E = TypeVar("E", bound=NorthstarError)

Path = tuple[Any, ...]
"""Path of a value in the document: keys (text), and indices of lists (int)."""

Place = tuple[int, int] | None
"""Line and column, from 1; None if unknown."""

Hint = str | None
"""The next step."""


class Words(NamedTuple):
    """Error texts that depend on the language of the document; `{}` is the value."""

    not_a_map: str = "{} is not a map"
    not_a_list: str = "{} is not a list"
    missing: str = "the field is missing"
    unknown: str = "no such field"
    ignored: str = "an unknown field, which is ignored"
    too_deep: str = f"nested deeper than {NESTING_MAX} levels"


class NotedError(NorthstarError):
    """Ends the reading of a value. Its errors are already in the context."""

    def __init__(self) -> None:
        super().__init__("refused")


class Context(Generic[E]):
    """State of reading one document.

    Attributes:
        words: error texts for the document's language.
        collect: continue after an error, to find all errors.
        errors: the errors so far (at most one if not `collect`).
    """

    ERRORS_MAX: Final = 100
    WARNINGS_MAX: ClassVar[int] = 100
    words: ClassVar[Words] = Words()

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.errors: list[E] = []
        self._warnings: list[str] = []
        self._more = 0

    @property
    def warnings(self) -> list[str]:
        """What was ignored, for a log: the first `WARNINGS_MAX`, and the number of the others."""
        return [*self._warnings, *([f"{self._more} more like these"] if self._more else [])]

    def error(self, rule: str, path: Path = (), place: Place = None, hint: Hint = None) -> E:
        """Make the error for the value at `path`.

        Args:
            rule: what is wrong.
            path: path of the value.
            place: line and column of the value.
            hint: the next step.
        """
        raise NotImplementedError

    def value(self, kind: Kind[T], parse: Callable[[], Node]) -> T:
        """Return the document's value.

        Raises:
            NorthstarError: the first error.
        """
        value = self.read(kind, parse)
        if value is None:
            raise self.errors[0]
        return value

    def read(self, kind: Kind[T], parse: Callable[[], Node]) -> T | None:
        """Return the document's value, or None if there are errors."""
        try:
            return kind.read(parse(), (), self)
        except NotedError:
            pass
        except NorthstarError as error:
            self.errors.append(error)  # type: ignore[arg-type] # made by `error`
        return None

    def invalid(self, node: Node, path: Path, rule: str, hint: Hint = None) -> E:
        """Make the error for `node`."""
        mark = node.mark
        place = None if mark is None else (mark.line + 1, mark.column + 1)
        return self.error(rule, path, place, hint)

    def refuse(self, error: NorthstarError) -> None:
        """Note an error. Return if the context collects errors, else end the reading.

        Raises:
            NotedError: the reading ends.
        """
        if not isinstance(error, NotedError):
            self.errors.append(error)  # type: ignore[arg-type] # made by `error`
        if not self.collect or len(self.errors) >= self.ERRORS_MAX:
            raise NotedError

    def refuses_ignored(self, path: Path) -> bool:  # noqa: ARG002 - subclasses use it
        """Return whether an unknown key at `path`, which a record ignores, is an error."""
        return False

    def ignore(self, key: Node, path: Path) -> None:
        """Note a warning about an unknown key."""
        if len(self._warnings) < self.WARNINGS_MAX:
            self._warnings.append(self.invalid(key, path, self.words.ignored).message)
        else:
            self._more += 1

    def show(self, text: str) -> str:
        """Quote a text for a message."""
        return quote(text)

    def describe(self, node: Node) -> str:
        """Describe a value for a message."""
        return describe(node)
