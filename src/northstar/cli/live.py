"""Lines on a terminal that are replaced in place.

The sequences are those of ECMA-48 that all terminals have. Neither curses nor a terminal database
is needed: docs/decisions/terminal.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_ERASE_LINE = "\x1b[K"
_ERASE_BELOW = "\x1b[J"


class Live:
    """Draws lines on a terminal, each time over the former ones.

    The lines may not be wider than the terminal, or the next ones would be drawn too low.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._drawn = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Replace the lines. Those that the terminal has no room for are counted, not shown."""
        room = self._rows() - 1
        if len(lines) > room:
            lines = [*lines[: room - 1], f"({len(lines) - room + 1} more lines)"]
        # What was scrolled out of the terminal cannot be replaced.
        up = f"\x1b[{min(self._drawn, room)}A" if self._drawn else ""
        # Erased before: after a character in the last column the cursor would erase that.
        text = "".join(f"{_ERASE_LINE}{line}\n" for line in lines)
        self._stream.write(f"\r{up}{text}{_ERASE_BELOW}")
        self._stream.flush()
        self._drawn = len(lines)

    def _rows(self) -> int:
        try:
            rows = os.get_terminal_size(self._stream.fileno()).lines
        except OSError:
            rows = 0
        return max(rows or 24, 3)
