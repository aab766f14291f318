"""Supervision of a run: readiness, watchdog, and the deadline of each state."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from northstar.api.status import ContainerState
from northstar.core import events, order, pacing, runs, stops
from northstar.core.actions import SetDeadline
from northstar.core.transitions import enter, extend
from northstar.core.values import Cause, Draft, Entry
from northstar.manifest import NotifyProbe
from northstar.model import Container
from northstar.model.units import format_nanoseconds

EXTENSION_MAX: Final = 10
"""EXTEND_TIMEOUT_USEC= moves the end of `ready.timeout`, at most to this multiple of it."""

WATCHDOG: Final = "watchdog"

_SUPERVISED: Final = frozenset(
    (ContainerState.RUNNING, ContainerState.READY, ContainerState.UNHEALTHY)
)


def notified(draft: Draft, event: events.Notified) -> None:
    """Process a message of the container: see sd_notify(3)."""
    container, message = event.container, event.message
    entry = draft.state.containers.get(container)
    if entry is None or entry.run is None or not entry.has_process:
        return
    if message.status is not None:
        text = message.status or None
        draft.change(container, history=replace(entry.history, text=text))
    if entry.state not in _SUPERVISED or entry.run.status is not None:
        return
    if message.stopping:
        stops.stopping_by_itself(draft, container)
        return
    if message.trigger and not draft.state.stopping:
        _watchdog_failed(draft, container)
        return
    if message.ready and _awaits_ready(entry):
        runs.enter_ready(draft, container)
        return
    if message.watchdog:
        _alive(draft, entry)
    if message.extend is not None:
        _extend_ready(draft, entry, message.extend)


def _awaits_ready(entry: Entry) -> bool:
    ready = entry.service.ready
    waiting = entry.state is ContainerState.RUNNING
    return waiting and ready is not None and isinstance(ready.probe, NotifyProbe)


def _alive(draft: Draft, entry: Entry) -> None:
    watchdog = entry.service.watchdog
    ready = entry.state is ContainerState.READY
    if watchdog is not None and ready and not draft.state.stopping:
        extend(draft, entry.container, draft.now + watchdog)


def _extend_ready(draft: Draft, entry: Entry, by: int) -> None:
    """Move the end of `ready.timeout` to `by` ns from now, but not before its own end."""
    ready, run = entry.service.ready, entry.run
    if entry.state is not ContainerState.RUNNING or ready is None or draft.state.stopping:
        return
    assert run is not None
    least = run.executed + ready.timeout
    most = run.executed + EXTENSION_MAX * ready.timeout
    deadline = min(max(least, draft.now + by), most)
    if deadline > draft.now:
        extend(draft, entry.container, deadline)


def deadline_reached(draft: Draft, event: events.DeadlineReached) -> None:
    """End the state of a container whose time has come."""
    container = event.container
    entry = draft.state.containers.get(container)
    if entry is None or entry.deadline is None:
        return
    if draft.now < entry.deadline:
        # It was extended since the timer was set.
        draft.act(SetDeadline(container, entry.deadline))
        return
    match entry.state:
        case ContainerState.RUNNING:
            assert entry.run is not None
            took = format_nanoseconds(entry.deadline - entry.run.executed)
            reason = f"not ready within {took}"
            stops.begin_stop(draft, container, reason, fault=reason)
        case ContainerState.READY:
            _watchdog_failed(draft, container)
        case ContainerState.STOPPING:
            stops.kill(draft, container)
        case ContainerState.BACKOFF:
            _end_back_off(draft, entry)


def _end_back_off(draft: Draft, entry: Entry) -> None:
    """Request the start of a container after its delay, or after the time that it has reserved."""
    if entry.due:
        return
    container = entry.container
    if not entry.reserved:
        start, paced = pacing.reserve(draft.state.paced, draft.now)
        draft.set(paced=paced)
        if start > draft.now:
            draft.change(container, deadline=start, reserved=True)
            draft.act(SetDeadline(container, start))
            return
    order.request_start(draft, container, Cause.AUTOMATIC)


def _watchdog_failed(draft: Draft, container: Container) -> None:
    if draft.state.containers[container].state is ContainerState.READY:
        enter(draft, container, ContainerState.UNHEALTHY, WATCHDOG)
    stops.begin_stop(draft, container, WATCHDOG, fault=WATCHDOG)
