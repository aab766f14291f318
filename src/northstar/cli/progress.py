"""A progress bar of one line on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from northstar.cli.tables import cells, pad, shorten
from northstar.model import printable

_INTERVAL: Final = 0.1
"""Shortest time between two drawings, in seconds: a serial line shows a few of them."""

_BAR: Final = 30
"""Width of the bar, in cells."""

_NAME_MIN: Final = 10
"""Fewest cells for a name that is shortened."""

_MB: Final = 10**6


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on stderr; yield a function that takes the bytes done and their total.

    At the end the line is erased.
    """
    name = printable(title)
    begun = time.monotonic()
    drawn: float | None = None

    def advance(done: int, total: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if drawn is None or now - drawn >= _INTERVAL or done == total:
            drawn = now
            sys.stderr.write(f"\r{line(name, done, total, now - begun, _columns())}\x1b[K")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        if drawn is not None:
            # The reason of a failure is printed here.
            with contextlib.suppress(OSError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()


def line(name: str, done: int, total: int, seconds: float, width: int) -> str:
    """Return the text of a bar, without the last column of the terminal, which may wrap.

    Args:
        name: of the file.
        done: bytes so far.
        total: bytes in all.
        seconds: since the begin.
        width: columns of the terminal.
    """
    counts = f"{done / _MB:.1f}/{total / _MB:.1f} MB"
    rate = f"{done / _MB / seconds:.1f} MB/s" if seconds > 0 else ""
    filled = _BAR * done // total if total else _BAR
    bar = f"[{pad('#' * filled, _BAR)}]"
    room = width - 1
    # The least important part is left out first.
    for parts in ((name, bar, counts, rate), (name, bar, counts), (name, counts)):
        if cells(text := "  ".join(filter(None, parts))) <= room:
            return text
    left = room - cells(counts) - 2
    return f"{shorten(name, left)}  {counts}" if left >= _NAME_MIN else shorten(counts, room)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
