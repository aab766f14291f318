"""Refusals that several requests share."""

from __future__ import annotations

from northstar.api import RefusedError, error
from northstar.core.update_values import Record, active
from northstar.core.values import Entry, State
from northstar.model import Container

SHUTTING_DOWN = "the runtime is shutting down"


def entry_of(state: State, container: Container) -> Entry:
    """Return the entry of an installed container.

    Raises:
        RefusedError: it is not installed.
    """
    entry = state.containers.get(container)
    if entry is None:
        raise RefusedError(error.InvalidContainer(container))
    return entry


def refuse_exec(state: State, container: Container) -> Entry:
    """Return the entry of a container in which a process may be executed: its payload runs.

    Raises:
        RefusedError: it is not installed or not started, or the shutdown has begun.
    """
    entry = entry_of(state, container)
    refuse_if_stopping(state)
    if not entry.has_process or entry.run is None or entry.run.status is not None:
        raise RefusedError(error.StopContainerNotStarted(container))
    return entry


def refuse_if_stopping(state: State) -> None:
    """Refuse a request that must not begin during the shutdown.

    Raises:
        RefusedError: the shutdown has begun.
    """
    if state.stopping:
        raise RefusedError(error.Unexpected(SHUTTING_DOWN))


def refuse_if_used(state: State, entry: Entry) -> None:
    """Refuse a request that must not begin while the image is in use.

    Raises:
        RefusedError: the container starts or runs, or is the resource of one that does.
    """
    if entry.run is not None:
        raise RefusedError(error.UmountBusy(entry.container))
    users = state.users_of(entry.container)
    if users:
        raise RefusedError(error.UmountBusy(min(users)))


def below_floor(state: State, container: Container) -> str | None:
    """Return why a version is too old: a newer one was committed. None if it is not."""
    floor = state.floors.get(container.name)
    if floor is None or container.version >= floor:
        return None
    return f"{container} is older than {floor}, which was committed before"


def refuse_below_floor(state: State, repository: str, container: Container) -> None:
    """Refuse a package that is too old, in a repository with `anti_downgrade`.

    Raises:
        RefusedError: a newer version was committed.
    """
    reason = below_floor(state, container)
    if reason is not None and state.repositories[repository].anti_downgrade:
        raise RefusedError(error.Unexpected(reason))


def refuse_if_replaced(state: State, container: Container) -> None:
    """Refuse the start of a version that is not the active one of an update.

    Raises:
        RefusedError: an update of this name is in progress.
    """
    update = state.updates.get(container.name)
    if update is not None and active(update) != container:
        raise refused_by_update(update.record)


def refuse_if_updated(state: State, container: Container) -> None:
    """Refuse to remove a version that takes part in an update.

    Raises:
        RefusedError: an update of it is in progress.
    """
    update = state.updates.get(container.name)
    if update is not None and container in (update.record.old, update.record.new):
        raise refused_by_update(update.record)


def refused_by_update(record: Record) -> RefusedError:
    """Return the refusal of a request on a name that is being updated."""
    return RefusedError(error.Unexpected(f"{record.old} is being replaced by {record.new}"))
