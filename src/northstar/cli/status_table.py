"""The table of states that `nstar status` prints."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from northstar.api.response import Failed, StatusOk
from northstar.api.status import ContainerState
from northstar.cli import listing
from northstar.model import printable

if TYPE_CHECKING:
    from rich.table import Table


class Row(NamedTuple):
    """A line of the table; the fields are its columns, in the order of the header."""

    name: str
    version: str
    wanted: str
    state: str
    since: str
    restarts: str
    reason: str


HEADER: Final = Row("NAME", "VERSION", "WANTED", "STATE", "SINCE", "RESTARTS", "REASON")

_STYLES: Final = {
    ContainerState.READY.value: "green",
    ContainerState.UNHEALTHY.value: "red",
    ContainerState.FAILED.value: "red",
    ContainerState.WAITING.value: "yellow",
    ContainerState.STARTING.value: "yellow",
    ContainerState.STOPPING.value: "yellow",
    ContainerState.BACKOFF.value: "yellow",
}


def row(result: StatusOk | Failed) -> Row:
    """Return the line of a container."""
    name, version = str(result.container).split(":")
    if isinstance(result, Failed):
        error = printable(str(result.error))
        return Row(name, version, *4 * (listing.NONE,), error)
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
    """Print the table: with colours on a terminal, else as aligned text."""
    rows = [*map(row, results)]
    if sys.stdout.isatty():
        listing.console().print(_table(rows))
    else:
        listing.print_aligned([HEADER, *rows])


@contextlib.contextmanager
def live() -> Iterator[Callable[[Sequence[StatusOk | Failed]], None]]:
    """Draw the table on a terminal; yield a function that replaces it."""
    from rich.live import Live

    with Live(console=listing.console(), auto_refresh=False) as display:
        yield lambda results: display.update(_table([*map(row, results)]), refresh=True)


def _table(rows: Sequence[Row]) -> Table:
    return listing.table(
        HEADER, [(line, _STYLES.get(line.state, "")) for line in rows], right={"RESTARTS"}
    )
