"""Refusals that several requests share."""

from __future__ import annotations

from northstar.api import RefusedError, error
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
