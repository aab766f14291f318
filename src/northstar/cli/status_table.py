"""The table of states that `nstar status` prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from northstar.api.response import Failed, StatusOk
from northstar.api.status import ContainerState
from northstar.cli import listing, tables
from northstar.cli.common import colours
from northstar.cli.tables import GREEN, NONE, RED, YELLOW, Column
from northstar.model import printable


class Row(NamedTuple):
    """A line of the table; the fields are the cells of COLUMNS."""

    name: str
    version: str
    wanted: str
    state: str
    since: str
    restarts: str
    reason: str


COLUMNS: Final = (
    Column("NAME"),
    Column("VERSION", drop=3),
    Column("WANTED", drop=4),
    Column("STATE"),
    Column("SINCE", drop=2),
    Column("RESTARTS", drop=5, right=True),
    Column("REASON", drop=1, text=True),
)

STYLES: Final = {
    ContainerState.READY.value: GREEN,
    ContainerState.UNHEALTHY.value: RED,
    ContainerState.FAILED.value: RED,
    ContainerState.WAITING.value: YELLOW,
    ContainerState.STARTING.value: YELLOW,
    ContainerState.STOPPING.value: YELLOW,
    ContainerState.BACKOFF.value: YELLOW,
}
"""The colours of states; the others have none."""


def row(result: StatusOk | Failed) -> Row:
    """Return the line of a container."""
    name, version = str(result.container).split(":")
    if isinstance(result, Failed):
        error = printable(str(result.error))
        return Row(name, version, *4 * (NONE,), error)
    status = result.status
    reasons = [status.reason] if status.reason else []
    if status.next is not None:
        reasons.append(f"(next start in {listing.duration(status.next)})")
    if status.text:
        # The app's own text: in quotes, it is not the runtime's reason.
        reasons.append(f'"{status.text}"')
    return Row(
        name,
        version,
        status.wanted.value,
        status.state.value,
        listing.duration(status.since),
        str(status.restarts),
        printable(" ".join(reasons)),
    )


def show(results: Sequence[StatusOk]) -> None:
    """Print the table: on a terminal as it has room and colours, else as aligned text."""
    rows = [*map(row, results)]
    tables.print_table(COLUMNS, rows, _styles(rows))


def live() -> Callable[[Sequence[StatusOk | Failed]], None]:
    """Return a function that draws the table on a terminal, over the one drawn before."""
    from northstar.cli.live import Live

    display = Live(sys.stdout)

    def update(results: Sequence[StatusOk | Failed]) -> None:
        rows = [*map(row, results)]
        width, colour = tables.terminal_width(), colours(sys.stdout)
        display.draw(tables.drawn(COLUMNS, rows, _styles(rows), width, colour))

    return update


def _styles(rows: Sequence[Row]) -> list[int | None]:
    return [STYLES.get(line.state) for line in rows]
