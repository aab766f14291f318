"""The status of a container: what clients see of its entry."""

from __future__ import annotations

from northstar.api.status import ContainerState, Status
from northstar.core.requests import entry_of
from northstar.core.values import Entry, State
from northstar.model import Container


def status_of(state: State, container: Container, now: int) -> Status:
    """Return the status of an installed container at `now`, in ns of CLOCK_MONOTONIC.

    Raises:
        RefusedError: it is not installed.
    """
    return status_of_entry(entry_of(state, container), now)


def status_of_entry(entry: Entry, now: int) -> Status:
    """Return the status of a container at `now`, in ns of CLOCK_MONOTONIC."""
    start = entry.deadline if entry.state is ContainerState.BACKOFF else None
    return Status(
        wanted=entry.wanted,
        state=entry.state,
        since=now - entry.since,
        reason=entry.reason,
        run=entry.history.runs,
        restarts=entry.history.restarts,
        next=None if start is None else max(start - now, 0),
        text=entry.history.text,
        last=entry.history.last,
    )
