"""What containers use, for `nstar stats` and `nstar top`. Pure.

Processor time is a counter, so a percentage needs two samples. Their distance is the difference of
the runtime's own times (`uptime`), so that neither a slow connection nor a busy client changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from northstar.api import ContainerData, Status
from northstar.cli import listing, status_table
from northstar.cli.tables import NONE, Column
from northstar.client.usage import Statistics, statistics
from northstar.model import Container

_SUFFIXES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Usage(NamedTuple):
    """What a container uses.

    Attributes:
        container: the container.
        pid: of its init; None if it does not run.
        uptime_ns: since its start, in nanoseconds; None if it does not run.
        used: its counters; all None if it does not run.
        cpu_percent: processor time since the sample before, in percent of one processor; None
            without one.
        status: its status; None if the runtime reports none.
    """

    container: Container
    pid: int | None
    uptime_ns: int | None
    used: Statistics
    cpu_percent: float | None
    status: Status | None


def measured(
    container: Container, data: ContainerData, status: Status | None, before: Usage | None
) -> Usage:
    """Return the usage of a container.

    Args:
        container: the container.
        data: its data.
        status: its status; None if the runtime reports none.
        before: the usage that was measured before.
    """
    process = data.process
    if process is None:
        return Usage(container, None, None, Statistics(), None, status)
    used = statistics(process.statistics)
    percent = None
    # Another PID or a shorter time: it was restarted in between.
    if (
        before is not None
        and before.pid == process.pid
        and before.uptime_ns is not None
        and process.uptime_ns > before.uptime_ns
        and used.cpu_ns is not None
        and before.used.cpu_ns is not None
    ):
        time = process.uptime_ns - before.uptime_ns
        percent = 100 * max(used.cpu_ns - before.used.cpu_ns, 0) / time
    return Usage(container, process.pid, process.uptime_ns, used, percent, status)


COLUMNS: Final = (
    Column("NAME"),
    Column("VERSION", drop=5),
    Column("STATE", drop=3),
    Column("CPU %", right=True),
    Column("MEMORY", right=True),
    Column("LIMIT", drop=6, right=True),
    Column("PIDS", drop=1, right=True),
    Column("RESTARTS", drop=2, right=True),
    Column("UPTIME", drop=4),
)


def row(usage: Usage) -> tuple[str, ...]:
    """Return the cells of COLUMNS."""
    used, status = usage.used, usage.status
    return (
        str(usage.container.name),
        str(usage.container.version),
        state(usage),
        NONE if usage.cpu_percent is None else f"{usage.cpu_percent:.1f}",
        size(used.memory_bytes),
        size(used.memory_limit_bytes),
        NONE if used.pids is None else str(used.pids),
        NONE if status is None else str(status.restarts),
        NONE if usage.uptime_ns is None else listing.uptime(usage.uptime_ns),
    )


def state(usage: Usage) -> str:
    """Return the state; without one that the runtime reports, whether it runs."""
    if usage.status is not None:
        return usage.status.state.value
    return NONE if usage.pid is None else "running"


def styles(rows: Iterable[Usage]) -> list[int | None]:
    """Return the colour of each row: that of its state."""
    return [status_table.STYLES.get(state(one)) for one in rows]


def size(count: int | None) -> str:
    """Return a number of bytes such as `512B`, `1.5MiB` or `120MiB`."""
    if count is None:
        return NONE
    value, unit = float(count), 0
    while value >= 1023.5 and unit < len(_SUFFIXES) - 1:
        value /= 1024
        unit += 1
    # 99.95 would become 100.0.
    return f"{value:.{1 if unit and value < 99.95 else 0}f}{_SUFFIXES[unit]}"
