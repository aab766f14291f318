"""The table of containers that `nstar list` prints.

Importing rich takes 80 ms, so it is only imported if stdout is a terminal.
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from northstar.api import ContainerData
from northstar.cli.common import colours
from northstar.model import Container, printable

_NONE: Final = "-"
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


HEADER: Final = Row("Name", "Version", "Repository", "Type", "Mounted", "PID", "Uptime")


def row(container: Container, data: ContainerData | None) -> Row:
    """Return the line of a container, with `-` for missing values."""
    name, version = str(container).split(":")
    if data is None:
        return Row(name, version, *5 * [_NONE])
    process = data.process
    return Row(
        name,
        version,
        printable(data.repository),
        "app" if data.manifest.get("init") is not None else "resource",
        "yes" if data.mounted else "no",
        _NONE if process is None else str(process.pid),
        _NONE if process is None else uptime(process.uptime_ns),
    )


def uptime(nanoseconds: int) -> str:
    """Return a time in its two largest units, such as `3d 4h` or `12s`."""
    left = nanoseconds // 10**9
    parts: list[str] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def show(rows: list[Row]) -> None:
    """Print the table: with lines and colours on a terminal, else as aligned text."""
    if sys.stdout.isatty():
        _draw(rows)
        return
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    for line in (HEADER, *rows):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _draw(rows: list[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for title in HEADER:
        table.add_column(title, overflow="fold", justify="right" if title == "PID" else "left")
    for line in rows:
        running = line.pid != _NONE
        table.add_row(*map(Text, line), style="green" if running else "")
    Console(no_color=not colours(sys.stdout), highlight=False).print(table)
