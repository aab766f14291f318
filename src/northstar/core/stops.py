"""Stops: signals that end a container, requests to stop and to restart it, SIGKILL after a time."""

from __future__ import annotations

import logging
import signal
from typing import Final

from msgspec.structs import replace

from northstar.api import RefusedError, error
from northstar.api.status import ContainerState, Wanted
from northstar.core import events, starts
from northstar.core.actions import Complete, Defer, Log, SendSignal
from northstar.core.choice import choose_resources
from northstar.core.requests import SHUTTING_DOWN, entry_of, refuse_if_replaced
from northstar.core.transitions import complete, enter
from northstar.core.values import PENDING, Deferred, Draft, Entry, Operation
from northstar.manifest import Stop
from northstar.model import Container, signal_name

ENDING: Final = frozenset((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
"""Signals that end a container. Apps may handle other signals: SIGHUP often reloads."""

_DEFAULT: Final = Stop()


def stop_of(entry: Entry) -> Stop:
    """Return how a container is stopped."""
    return entry.service.stop or _DEFAULT


def kill_requested(draft: Draft, event: events.KillRequested) -> None:
    """Send a signal to a container that has a process.

    A signal that ends containers also ends the wait or the back-off of one without a process.
    """
    container = event.container
    entry = entry_of(draft.state, container)
    if entry.state in PENDING and _ends(entry, event.number):
        _end_pending(draft, container)
        draft.act(Complete(container))
        return
    if not entry.has_process:
        raise RefusedError(error.StopContainerNotStarted(container))
    draft.change(container, operation=Operation.KILL)
    send_signal(draft, container, event.number)


def _ends(entry: Entry, number: int) -> bool:
    """Return whether a signal ends a container, so that it is not wanted any more."""
    return number in ENDING or number == stop_of(entry).signal


def _end_pending(draft: Draft, container: Container) -> None:
    enter(draft, container, ContainerState.INSTALLED, "stopped", wanted=Wanted.DOWN)


def send_signal(draft: Draft, container: Container, number: int) -> None:
    """Send a signal to a container that has a process; one that ends containers begins its stop."""
    entry = draft.state.containers[container]
    assert entry.run is not None
    if _ends(entry, number):
        run = entry.run
        if number == stop_of(entry).signal:
            run = replace(run, signalled=True)
        stopping = entry.state is ContainerState.STOPPING
        enter(
            draft,
            container,
            ContainerState.STOPPING if run.status is None else entry.state,
            f"kill {signal_name(number)}",
            wanted=Wanted.DOWN,
            deadline=entry.deadline if stopping else None,
            run=run,
        )
    _signal(draft, container, number)


def _signal(draft: Draft, container: Container, number: int) -> None:
    draft.act(
        Log(logging.INFO, f"Killing {container} with {signal_name(number)}"),
        SendSignal(container, number),
    )


def signal_sent(draft: Draft, event: events.SignalSent) -> None:
    """Answer the kill request."""
    if event.container in draft.state.containers:
        complete(draft, event.container, Operation.KILL)


def stop_requested(draft: Draft, event: events.StopRequested) -> None:
    """Stop the container; the answer follows its exit."""
    container = event.container
    entry = entry_of(draft.state, container)
    if entry.state in PENDING:
        _end_pending(draft, container)
    if not entry.has_process:
        draft.act(Complete(container))
        return
    draft.change(container, deferred=entry.deferred | {Deferred.STOP})
    begin_stop(draft, container, "stop requested", wanted=Wanted.DOWN, timeout=event.timeout)
    draft.act(Defer(container, Deferred.STOP))


def restart_requested(draft: Draft, event: events.RestartRequested) -> None:
    """Stop the container if it has a process; the start follows its exit.

    Nothing is stopped that could not be started again.
    """
    container = event.container
    entry = entry_of(draft.state, container)
    if not entry.has_process:
        starts.start_requested(draft, _start(entry))
        return
    if draft.state.stopping:
        raise RefusedError(error.StartContainerFailed(container, SHUTTING_DOWN))
    refuse_if_replaced(draft.state, container)
    choose_resources(draft.state, entry.manifest)
    draft.change(container, deferred=entry.deferred | {Deferred.RESTART})
    begin_stop(draft, container, "restart requested", wanted=Wanted.UP)
    draft.act(Defer(container, Deferred.RESTART))


def _start(entry: Entry) -> events.StartRequested:
    """Return the request to start a container without a process: with its command, if wanted."""
    command = entry.history.command
    if command is None or entry.state not in PENDING:
        return events.StartRequested(entry.container)
    return events.StartRequested(
        entry.container, command.init, command.arguments, command.environment
    )


def begin_stop(
    draft: Draft,
    container: Container,
    reason: str,
    *,
    wanted: Wanted | None = None,
    timeout: int | None = None,
    fault: str = "",
    again: bool = False,
) -> None:
    """Send a container its stop signal, unless it was sent before, and SIGKILL after a time.

    Args:
        draft: the step.
        container: the container; it has a process, or is being cleaned up.
        reason: why.
        wanted: what is wanted from now on; None for no change.
        timeout: ns until SIGKILL. None for those of the manifest, or of the stop in progress.
        fault: why the run is faulty.
        again: send the stop signal even if it was sent before.
    """
    entry = draft.state.containers[container]
    run = entry.run
    assert run is not None
    if run.status is not None:
        enter(draft, container, entry.state, wanted=wanted)
        return
    stop = stop_of(entry)
    deadline = entry.deadline if entry.state is ContainerState.STOPPING else None
    if run.killed:
        deadline = None
    elif deadline is None or timeout is not None:
        deadline = draft.now + (stop.timeout if timeout is None else timeout)
    changed = replace(run, signalled=True, fault=run.fault or fault)
    enter(
        draft,
        container,
        ContainerState.STOPPING,
        reason,
        wanted=wanted,
        deadline=deadline,
        run=changed,
    )
    if again or not run.signalled:
        _signal(draft, container, stop.signal)


def stopping_by_itself(draft: Draft, container: Container) -> None:
    """Record that a container stops without a signal, in the time that a stop may take."""
    entry = draft.state.containers[container]
    deadline = draft.now + stop_of(entry).timeout
    enter(draft, container, ContainerState.STOPPING, "by itself", deadline=deadline)


def kill(draft: Draft, container: Container) -> None:
    """Send SIGKILL to a container that did not end in time."""
    entry = draft.state.containers[container]
    assert entry.run is not None
    enter(draft, container, entry.state, run=replace(entry.run, killed=True))
    _signal(draft, container, signal.SIGKILL)
