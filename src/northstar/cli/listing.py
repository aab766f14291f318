"""The table of containers that `nstar list` prints."""

from __future__ import annotations

from typing import Final, NamedTuple

from northstar.api import ContainerData, Status
from northstar.cli.tables import GREEN, NONE, Column, print_table
from northstar.client.session import ENDED
from northstar.model import Container, Exited, printable
from northstar.model.status import signal_name

_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


class Row(NamedTuple):
    """A line of the table; the fields are the cells of COLUMNS."""

    name: str
    version: str
    repository: str
    type: str
    mounted: str
    pid: str
    uptime: str
    state: str = NONE
    last_exit: str = NONE


COLUMNS: Final[tuple[Column, ...]] = (
    Column("Name"),
    Column("Version"),
    Column("Repository", drop=6),
    Column("Type", drop=5),
    Column("Mounted", drop=4),
    Column("PID", drop=3, right=True),
    Column("Uptime", drop=2),
    Column("State", drop=1),
    Column("Last exit", drop=3),
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
    """Print the table.

    Args:
        rows: the lines.
        states: whether it has the columns of states.
    """
    columns = slice(len(COLUMNS) if states else _PLAIN)
    styles = [GREEN if line.pid != NONE else None for line in rows]
    print_table(COLUMNS[columns], [line[columns] for line in rows], styles)
