"""A full screen on a terminal, and its keys.

Plain sequences of ECMA-48 and of xterm, and termios: no curses and no terminal database, which
small systems lack. docs/decisions/terminal.md gives the reasons.
"""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, without cursor, without continuation of long lines."""

_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_HOME: Final = "\x1b[H"
_ERASE_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"

_LFLAG: Final = 3
_CC: Final = 6
"""Positions in the list of termios.tcgetattr."""

_ESCAPE: Final = 0x1B
_PENDING_MAX: Final = 16
"""Longest sequence of a key, in bytes."""


class Size(NamedTuple):
    """The size of a terminal, in cells."""

    rows: int
    columns: int


class Screen:
    """A context in which the whole terminal belongs to the program.

    At its end the terminal is as before. Only SIGKILL leaves it behind; `reset` repairs that.
    """

    def __init__(self, keyboard: int = 0, display: int = 1) -> None:
        self._keyboard = keyboard
        self._display = display
        self._saved: list[Any] | None = None

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.leave()

    def enter(self) -> None:
        """Take the terminal.

        Raises:
            OSError: the terminal cannot be set up.
        """
        try:
            self._saved = termios.tcgetattr(self._keyboard)
            changed = termios.tcgetattr(self._keyboard)
            # Without ISIG: Ctrl-C and Ctrl-Z are keys, so that the program can restore the
            # terminal. CR stays a line feed, and output is processed as ever.
            changed[_LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
            changed[_CC][termios.VMIN], changed[_CC][termios.VTIME] = 1, 0
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, changed)
            self._write(_ENTER)
        except termios.error as error:
            raise OSError(*error.args) from None
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give the terminal back. Idempotent; a terminal that is gone is no error."""
        if self._saved is None:
            return
        saved, self._saved = self._saved, None
        with contextlib.suppress(OSError):
            self._write(_LEAVE)
        # TCSAFLUSH drops keys that were pressed for this program.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._keyboard, termios.TCSAFLUSH, saved)

    def size(self) -> Size:
        """Return the present size; 24 x 80 for a terminal that has none, such as a serial line."""
        try:
            columns, rows = os.get_terminal_size(self._display)
        except OSError:
            columns = rows = 0
        return Size(rows or 24, columns or 80)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, at least one and at most one per row, in place of all others.

        Each row is erased before it is written: after a character in the last column the cursor
        stays on it, and would erase it.
        """
        *first, last = lines
        rows = [*(f"{_ERASE_LINE}{line}" for line in first), f"{_ERASE_BELOW}{last}"]
        self._write(_HOME + "\r\n".join(rows))

    def _write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._display, data) :]


_CONTROLS: Final = {
    0x03: "interrupt",
    0x0A: "enter",
    0x0C: "redraw",
    0x0D: "enter",
    0x1A: "suspend",
    0x7F: "escape",
}
_ARROWS: Final = {"A": "up", "B": "down", "H": "home", "F": "end"}
_SEQUENCES: Final = {
    **{f"[{final}": name for final, name in _ARROWS.items()},
    **{f"O{final}": name for final, name in _ARROWS.items()},
    "[1~": "home",
    "[4~": "end",
    "[5~": "page up",
    "[6~": "page down",
    "[7~": "home",
    "[8~": "end",
}
"""The keys of xterm, the Linux console and rxvt, without the escape character."""


class Keys:
    """Splits the input of a terminal into keys: a character, or a name such as `up`.

    Other keys with a sequence, such as F1, are dropped. A sequence may arrive in pieces.
    """

    def __init__(self) -> None:
        self._pending = b""

    @property
    def pending(self) -> bool:
        """Whether input may be the begin of a sequence, or the key escape alone."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are complete with this input."""
        found = []
        data, self._pending = self._pending + data, b""
        while data:
            if data[0] != _ESCAPE:
                found += self._plain(data[:1])
                data = data[1:]
                continue
            end = _sequence_end(data)
            if end is None:
                if len(data) <= _PENDING_MAX:
                    self._pending = data
                    break
                end = len(data)  # no keyboard sends that
            name = "escape" if end == 1 else _SEQUENCES.get(data[1:end].decode("latin-1"))
            if name is not None:
                found.append(name)
            data = data[end:]
        return found

    def flush(self) -> list[str]:
        """Return the key escape if it was pressed alone: a caller waits a moment for the rest."""
        pending, self._pending = self._pending, b""
        return ["escape"] if pending == b"\x1b" else []

    def _plain(self, byte: bytes) -> list[str]:
        name = _CONTROLS.get(byte[0])
        if name is not None:
            return [name]
        return [byte.decode()] if 0x20 <= byte[0] < 0x7F else []


def _sequence_end(data: bytes) -> int | None:
    """Return the length of the sequence at the begin; None if it is incomplete."""
    if len(data) == 1:
        return None
    if data[1:2] == b"O":
        return 3 if len(data) >= 3 else None
    if data[1:2] != b"[":
        return 1
    # ECMA-48, 5.4: parameters, and a final byte.
    for at in range(2, len(data)):
        if 0x40 <= data[at] <= 0x7E:
            return at + 1
        if not 0x20 <= data[at] <= 0x3F:
            return at
    return None
