"""The table of containers that `nstar list` prints, and tables in general.

Importing rich takes 80 ms, so it is only imported if stdout is a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from northstar.api import ContainerData, Status
from northstar.cli.common import colours
from northstar.client.session import ENDED
from northstar.model import Container, Exited, printable
from northstar.model.status import signal_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NONE: Final = "-"
"""The text for a missing value."""

_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


class Row(NamedTuple):
    """A line of the table; the fields are its columns, in the order of the header."""

    name: str
    version: str
    repository: str
    type: str
    mounted: str
    pid: str
    uptime: str
    state: str = NONE
    last_exit: str = NONE


HEADER: Final = Row(
    "Name", "Version", "Repository", "Type", "Mounted", "PID", "Uptime", "State", "Last exit"
)
_PLAIN: Final = 7
"""Number of columns if the runtime does not report states."""


def row(container: Container, data: ContainerData | None, status: Status | None = None) -> Row:
    """Return the line of a container, with `-` for missing values."""
    name, version = str(container).split(":")
    if data is None:
        return Row(name, version, *5 * [NONE])
    process = data.process
    is_app = data.manifest.get("init") is not None
    return Row(
        name,
        version,
        printable(data.repository),
        "app" if is_app else "resource",
        "yes" if data.mounted else "no",
        NONE if process is None else str(process.pid),
        NONE if process is None else uptime(process.uptime_ns),
        NONE if status is None or not is_app else status.state.value,
        NONE if status is None else last_exit(status),
    )


def last_exit(status: Status) -> str:
    """Return how the last run ended, and how long ago if no run followed."""
    last = status.last
    if last is None:
        return NONE
    text = f"exit {last.code}" if isinstance(last, Exited) else signal_name(last.signal)
    if status.state in ENDED:
        return f"{text}, {duration(status.since)} ago"
    return text


def duration(nanoseconds: int) -> str:
    """Return a time such as `2.1s`, or in its two largest units such as `3d 4h`."""
    tenths = nanoseconds // 10**8
    return f"{tenths // 10}.{tenths % 10}s" if tenths < 600 else uptime(nanoseconds)


def uptime(nanoseconds: int) -> str:
    """Return a time in its two largest units, such as `3d 4h` or `12s`."""
    left = nanoseconds // 10**9
    parts: list[str] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def show(rows: list[Row], *, states: bool) -> None:
    """Print the table: with lines and colours on a terminal, else as aligned text.

    Args:
        rows: the lines.
        states: whether it has the columns of states.
    """
    columns = slice(len(HEADER) if states else _PLAIN)
    if sys.stdout.isatty():
        lines = [(line[columns], "green" if line.pid != NONE else "") for line in rows]
        console().print(table(HEADER[columns], lines, right={"PID"}))
    else:
        print_aligned([HEADER[columns], *(line[columns] for line in rows)])


def print_aligned(lines: Sequence[Sequence[str]]) -> None:
    """Print lines of the same number of cells, in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def console() -> Console:
    """Return the terminal on stdout."""
    from rich.console import Console

    return Console(no_color=not colours(sys.stdout), highlight=False)


def table(
    header: Sequence[str],
    lines: Iterable[tuple[Sequence[str], str]],
    *,
    right: Collection[str],
) -> Table:
    """Return a table for a terminal.

    Args:
        header: the titles of the columns.
        lines: the cells of each line, and its style.
        right: titles of the columns of numbers.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for title in header:
        found.add_column(title, overflow="fold", justify="right" if title in right else "left")
    for cells, style in lines:
        found.add_row(*map(Text, cells), style=style)
    return found
