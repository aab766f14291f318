"""Regular expressions that are compiled on first use.

Compiling one takes 0.2 to 2 ms, and most starts of the runtime need few of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable


class Pattern:
    """A regular expression, with the methods of `re.Pattern` that are used."""

    def __init__(self, text: str, flags: int = 0) -> None:
        """Store the expression and its flags, see `re.compile`."""
        self._text = text
        self._flags = flags

    @functools.cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self._text, self._flags)

    def match(self, text: str, position: int = 0) -> re.Match[str] | None:
        """Match at `position`; None if the text does not match."""
        return self._compiled.match(text, position)

    def sub(self, replacement: Callable[[re.Match[str]], str], text: str) -> str:
        """Replace all matches."""
        return self._compiled.sub(replacement, text)

    def findall(self, text: str) -> list[str]:
        """Return all matches, or their only group."""
        return self._compiled.findall(text)
