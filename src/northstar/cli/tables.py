"""Tables of text: pure, from cells to lines of a width. A word is never broken.

`layout` decides which columns a terminal has room for, and `print_table` prints the result. Cells
must be printable (`northstar.model.printable`), in one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from northstar.cli.common import colours

NONE: Final = "-"
"""The text for a missing value."""

BOLD: Final = 1
REVERSE: Final = 7
RED: Final = 31
GREEN: Final = 32
YELLOW: Final = 33
"""Codes of ECMA-48, "Select Graphic Rendition"."""

_GAP: Final = 2
"""Spaces between two columns."""

_TEXT_MIN: Final = 20
"""A column of sentences is dropped rather than made narrower, in cells of the terminal."""

_FIRST_MIN: Final = 12
"""The first column is not shortened below this for the sake of other essential columns."""

_DEFAULT_WIDTH: Final = 80
_MARK: Final = "..."
"""The end of a shortened word. ASCII: a serial console need not show UTF-8."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its header.
        drop: 0 for an essential column; the others are dropped from a narrow table, the largest
            number first.
        right: aligned to the right: numbers.
        text: sentences, which are continued on the next line, after a word.
    """

    title: str
    drop: int = 0
    right: bool = False
    text: bool = False


class Layout(NamedTuple):
    """A table as lines.

    Attributes:
        header: the titles.
        rows: the lines of each row: more than one if a text is continued.
    """

    header: str
    rows: list[list[str]]


def cells(text: str) -> int:
    """Return the width of a text on a terminal, in cells: a wide character takes two.

    Wide characters and combining marks are those of Unicode's annex 11 and of its categories Mn
    and Me. A terminal that shows them otherwise only shifts the rest of the line.
    """
    if text.isascii():
        return len(text)
    # The database is 1 MB, and most tables are ASCII.
    import unicodedata

    width = 0
    for character in text:
        if unicodedata.category(character) not in ("Mn", "Me"):
            width += 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
    return width


def shorten(text: str, width: int) -> str:
    """Return a text that fits into `width` cells: whole, or its beginning and `...`."""
    if cells(text) <= width:
        return text
    mark = _MARK[:width]
    room = width - len(mark)
    end = 0
    # A loop, since a prefix of n cells has an unknown number of characters.
    while end < len(text) and cells(text[: end + 1]) <= room:
        end += 1
    return text[:end] + mark


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill a text with spaces to `width` cells."""
    spaces = " " * (width - cells(text))
    return spaces + text if right else text + spaces


def wrap(text: str, width: int) -> list[str]:
    """Split a text at spaces into lines of at most `width` cells.

    Only a word that is longer than a line is shortened.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and cells(lines[-1]) + 1 + cells(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(shorten(word, width))
    return lines or [""]


def layout(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int | None) -> Layout:
    """Return the lines of a table.

    Args:
        columns: its columns; the first one is always shown.
        rows: for each row a cell for each column.
        width: of the terminal, in cells. None is unlimited: no column is dropped.
    """
    rows = list(rows)
    needs = [
        max(cells(column.title), *(cells(row[at]) for row in rows), 0)
        for at, column in enumerate(columns)
    ]
    widths = dict(enumerate(needs)) if width is None else _fit(columns, needs, max(width, 1))

    def lines(row: Sequence[str]) -> list[str]:
        parts = {
            at: wrap(row[at], size) if columns[at].text else [shorten(row[at], size)]
            for at, size in widths.items()
        }
        return [
            (" " * _GAP)
            .join(
                pad(part[number] if number < len(part) else "", size, right=columns[at].right)
                for (at, size), part in zip(widths.items(), parts.values(), strict=True)
            )
            .rstrip()
            for number in range(max(map(len, parts.values())))
        ]

    [header, *_] = lines([column.title for column in columns])
    return Layout(header, [lines(row) for row in rows])


def _fit(columns: Sequence[Column], needs: Sequence[int], width: int) -> dict[int, int]:
    """Return the columns that are shown, by position, and their widths."""
    shown = list(range(len(columns)))
    while True:
        widths = {at: needs[at] for at in shown}
        excess = sum(widths.values()) + _GAP * (len(shown) - 1) - width
        if excess <= 0:
            return widths
        # First texts are continued on more lines, then columns are dropped.
        for at in shown:
            if columns[at].text:
                least = min(needs[at], max(_TEXT_MIN, cells(columns[at].title)))
                widths[at] = max(needs[at] - excess, least)
                excess -= needs[at] - widths[at]
        if excess <= 0:
            return widths
        if len(shown) == 1:
            return {0: width}
        dropped = max(shown[1:], key=lambda at: (columns[at].drop, at))
        if columns[dropped].drop == 0:
            # Only essential columns are left: a long name gives way.
            first = widths[0] - excess
            if first >= min(needs[0], _FIRST_MIN):
                return {**widths, 0: first}
        shown.remove(dropped)


def terminal_width() -> int:
    """Return the number of columns of the terminal on stdout."""
    try:
        # 0 is the answer of a serial line whose size nobody has set.
        return os.get_terminal_size(1).columns or _DEFAULT_WIDTH
    except OSError:
        return _DEFAULT_WIDTH


def painted(text: str, *codes: int) -> str:
    """Return a text with these codes of "Select Graphic Rendition"; unchanged without any."""
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if codes else text


def drawn(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Sequence[int | None],
    width: int,
    colour: bool,
) -> list[str]:
    """Return the lines of a table on a terminal.

    Args:
        columns: see `layout`.
        rows: see `layout`.
        styles: for each row a colour, or None.
        width: of the terminal, in cells.
        colour: whether to use colours and bold text.
    """
    header, groups = layout(columns, rows, width)
    lines = [painted(header, BOLD) if colour else header]
    for group, style in zip(groups, styles, strict=True):
        codes = [style] if colour and style is not None else []
        lines += [painted(line, *codes) for line in group]
    return lines


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[int | None]
) -> None:
    """Print a table: on a terminal as it has room and colours, else whole, as aligned text."""
    if sys.stdout.isatty():
        lines = drawn(columns, rows, styles, terminal_width(), colours(sys.stdout))
    else:
        # To the left, also numbers: as ever, for programs that read it.
        header, groups = layout([one._replace(right=False) for one in columns], rows, None)
        lines = [header, *(line for group in groups for line in group)]
    print("\n".join(lines))
