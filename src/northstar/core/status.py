"""The status of a container: what clients see of its entry."""

from __future__ import annotations

from northstar.api.status import ContainerState, Status, Wanted
from northstar.core.requests import entry_of
from northstar.core.update_steps import options
from northstar.core.update_values import Phase, Update, UpdateStep
from northstar.core.values import Entry, State
from northstar.model import Container
from northstar.model.units import format_nanoseconds


def status_of(state: State, container: Container, now: int) -> Status:
    """Return the status of an installed container at `now`, in ns of CLOCK_MONOTONIC.

    Raises:
        RefusedError: it is not installed.
    """
    return status_of_entry(entry_of(state, container), now, state.updates.get(container.name))


def status_of_entry(entry: Entry, now: int, update: Update | None = None) -> Status:
    """Return the status of a container at `now`, in ns of CLOCK_MONOTONIC.

    Args:
        entry: the container.
        now: the time.
        update: the update of its name, if one is in progress: it is the reason where the container
            itself has none.
    """
    start = entry.deadline if entry.state is ContainerState.BACKOFF else None
    return Status(
        wanted=entry.wanted,
        state=entry.state,
        since=now - entry.since,
        reason=_reason(entry, update),
        run=entry.history.runs,
        restarts=entry.history.restarts,
        next=None if start is None else max(start - now, 0),
        text=entry.history.text,
        last=entry.history.last,
    )


def _reason(entry: Entry, update: Update | None) -> str:
    """Return why a container is in its state: of an update, what it does in it."""
    if update is None:
        return entry.reason
    record = update.record
    if entry.container == record.old and record.phase is not Phase.ROLLBACK:
        # That it was stopped is a part of the update.
        stopped = entry.wanted is Wanted.DOWN and not entry.has_process
        return entry.reason if entry.reason and not stopped else f"being replaced by {record.new}"
    if entry.container != record.new or entry.reason:
        return entry.reason
    if update.step is UpdateStep.TRY:
        return f"on trial for {format_nanoseconds(options(entry.manifest).window)}"
    return f"replaces {record.old}" if record.phase is not Phase.ROLLBACK else "rolled back"
