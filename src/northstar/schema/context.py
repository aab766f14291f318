"""What a reading finds besides the value: errors and warnings, in the words of the document.

The kinds decide what is refused. How an error names the place (line, path) and which class it has
is the document's business: a subclass of `Context` for manifests, and one for TOML files.
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
"""What leads to a value: keys (text), and indices of lists (int)."""


Place = tuple[int, int] | None
"""Line and column, from 1; None if not known."""

Hint = str | None
"""The next step."""


class Words(NamedTuple):
    """Rules that languages have different words for; `{}` is the value."""

    not_a_map: str = "{} is not a map"
    not_a_list: str = "{} is not a list"
    missing: str = "the field is missing"
    unknown: str = "no such field"
    ignored: str = "an unknown field, which is ignored"
    too_deep: str = f"nested deeper than {NESTING_MAX} levels"


class NotedError(NorthstarError):
    """Carries no news: ends the reading of a value whose errors are noted in the context."""

    def __init__(self) -> None:
        super().__init__("refused")


class Context(Generic[E]):
    """One reading of one document.

    Attributes:
        words: of the document's language.
        collect: go on after an error, to find them all.
        errors: the errors so far (at most one if not `collect`).
        warnings: what was ignored, and where; of very much the first, and how many more.
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
        """What was ignored, for a log."""
        return [*self._warnings, *([f"{self._more} more like these"] if self._more else [])]

    def error(self, rule: str, path: Path = (), place: Place = None, hint: Hint = None) -> E:
        """Make the error for the value at `path`.

        Args:
            rule: what is wrong.
            path: leads to the value.
            place: where it stands.
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
        """Note an error and go on, or end the reading if only the first one is asked for.

        Raises:
            NotedError: the reading ends.
        """
        if not isinstance(error, NotedError):
            self.errors.append(error)  # type: ignore[arg-type] # made by `error`
        if not self.collect or len(self.errors) >= self.ERRORS_MAX:
            raise NotedError

    def ignore(self, key: Node, path: Path) -> None:
        """Note a warning about a key that names no field."""
        if len(self._warnings) < self.WARNINGS_MAX:
            self._warnings.append(self.invalid(key, path, self.words.ignored).message)
        else:
            self._more += 1

    def show(self, text: str) -> str:
        """Quote a text for a message."""
        return quote(text)

    def describe(self, node: Node) -> str:
        """Name a value for a message."""
        return describe(node)
