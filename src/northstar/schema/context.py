"""What a reading finds besides the value: errors and warnings, in the words of the document.

The kinds decide what is refused. How an error names the place (line, path) and which class it has
is the document's business: a subclass of `Context` for manifests, and one for the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from northstar.model import NorthstarError
from northstar.schema.node import NESTING_MAX, Node, describe, show

if TYPE_CHECKING:
    from northstar.schema.scalars import Kind

T = TypeVar("T")
E = TypeVar("E", bound=NorthstarError)

Path = tuple[Any, ...]
"""What leads to a value: keys (text), and indices of lists (int)."""


class NotedError(NorthstarError):
    """Carries no news: ends the reading of a value whose errors are noted in the context."""

    def __init__(self) -> None:
        super().__init__("refused")


class Context(Generic[E]):
    """One reading of one document.

    Attributes:
        collect: go on after an error, to find them all.
        errors: the errors so far (at most one if not `collect`).
        warnings: what was ignored, and where.
    """

    __slots__ = ("collect", "errors", "warnings")

    ERRORS_MAX: Final = 100

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.errors: list[E] = []
        self.warnings: list[str] = []

    def error(
        self,
        rule: str,
        *,
        path: Path = (),
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> E:
        """Make the error for the value at `path`, which breaks `rule`.

        Args:
            rule: what is wrong.
            path: leads to the value.
            line: where it stands, counted from 1; None if not known.
            column: likewise.
            hint: the next step.
        """
        raise NotImplementedError

    def read(self, kind: Kind[T], parse: Callable[[], Node]) -> T | None:
        """Return the document's value, or None if there are errors."""
        try:
            return kind.read(parse(), (), self)
        except NotedError:
            pass
        except NorthstarError as error:
            self.errors.append(error)  # type: ignore[arg-type] # made by `error`
        return None

    def invalid(self, node: Node, path: Path, rule: str, *, hint: str | None = None) -> E:
        """Make the error for `node`."""
        mark = node.mark
        line, column = (None, None) if mark is None else (mark.line + 1, mark.column + 1)
        return self.error(rule, path=path, line=line, column=column, hint=hint)

    def refuse(self, error: NorthstarError) -> None:
        """Note an error and go on, or end the reading if only the first one is asked for.

        Raises:
            NotedError: the reading ends.
        """
        if not isinstance(error, NotedError):
            self.errors.append(error)  # type: ignore[arg-type] # made by `error`
        if not self.collect or len(self.errors) >= self.ERRORS_MAX:
            raise NotedError

    # What the languages have different words for.

    def show(self, text: str) -> str:
        """Quote a text."""
        return show(text)

    def describe(self, node: Node) -> str:
        """Name a value."""
        return describe(node)

    def too_deep(self, line: int | None = None, column: int | None = None) -> E:
        """Make the error for a document of too many levels."""
        return self.error(f"nested deeper than {NESTING_MAX} levels", line=line, column=column)

    def not_a_map(self, node: Node, path: Path) -> E:
        """Make the error for a value where a map is wanted."""
        return self.invalid(node, path, f"{self.describe(node)} is not a map")

    def not_a_list(self, node: Node, path: Path) -> E:
        """Make the error for a value where a list is wanted."""
        return self.invalid(node, path, f"{self.describe(node)} is not a list")

    def missing(self, node: Node, path: Path) -> E:
        """Make the error for a field that the map `node` lacks."""
        return self.invalid(node, path, "the field is missing")

    def unknown(self, key: Node, path: Path, hint: str | None) -> E:
        """Make the error for a key that names no field."""
        return self.invalid(key, path, "no such field", hint=hint)

    def ignore(self, key: Node, path: Path) -> None:
        """Note a warning about a key that names no field."""
        if len(self.warnings) < self.ERRORS_MAX:
            rule = "an unknown field, which is ignored"
            self.warnings.append(str(self.invalid(key, path, rule)))
