"""Supervision of a run: readiness, health, watchdog, and the deadline of each state."""

from __future__ import annotations

import logging
from typing import Final

from msgspec.structs import replace

from northstar.api.status import ContainerState
from northstar.core import events, order, pacing, probes, runs, stops
from northstar.core.actions import Log, SetDeadline
from northstar.core.transitions import enter, extend, plan_probe
from northstar.core.values import Cause, Draft, Entry
from northstar.manifest import HealthAction, NotifyProbe
from northstar.model import Container
from northstar.model.units import format_nanoseconds

EXTENSION_MAX: Final = 10
"""EXTEND_TIMEOUT_USEC= moves the end of `ready.timeout`, at most to this multiple of it."""

WATCHDOG: Final = "watchdog"

_SUPERVISED: Final = frozenset(
    (ContainerState.RUNNING, ContainerState.READY, ContainerState.UNHEALTHY)
)
_READY: Final = frozenset((ContainerState.READY, ContainerState.UNHEALTHY))
"""States in which the watchdog and the health count."""

LACKING_PAUSE: Final = 60 * 10**9
"""Least time in ns between two warnings that the runtime lacks what probes need."""


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
    counts = entry.state in _READY and not draft.state.stopping
    if watchdog is not None and counts:
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
    """End the state of a container whose time has come, or begin its next probe."""
    container = event.container
    entry = draft.state.containers.get(container)
    if entry is None or entry.timer is None:
        return
    if draft.now < entry.timer:
        # It was extended since the timer was set.
        draft.act(SetDeadline(container, entry.timer))
        return
    if entry.deadline is None or draft.now < entry.deadline:
        probes.begin(draft, container)
        if entry.deadline is not None:
            draft.act(SetDeadline(container, entry.deadline))
        return
    match entry.state:
        case ContainerState.RUNNING:
            assert entry.run is not None
            took = format_nanoseconds(entry.deadline - entry.run.executed)
            reason = f"not ready within {took}"
            if entry.run.unready:
                _log_probe(draft, container, f"has failed: {entry.run.unready}")
            stops.begin_stop(draft, container, reason, fault=reason)
        case ContainerState.READY | ContainerState.UNHEALTHY:
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


def probe_succeeded(draft: Draft, event: events.ProbeSucceeded) -> None:
    """A container whose readiness was probed is ready; one whose health was probed is healthy."""
    entry = _probed(draft, event.container)
    if entry is None:
        return
    _executed(draft)
    assert entry.run is not None
    if entry.state is ContainerState.RUNNING:
        runs.enter_ready(draft, entry.container)
        return
    draft.change(entry.container, run=replace(entry.run, failures=0))
    _await_next(draft, entry, ContainerState.READY, "")


def probe_failed(draft: Draft, event: events.ProbeFailed) -> None:
    """Count a failure; after `failures` in a row the container is unhealthy."""
    container = event.container
    entry = _probed(draft, container)
    if entry is None:
        return
    _executed(draft)
    assert entry.run is not None
    if entry.state is ContainerState.RUNNING:
        draft.change(container, run=replace(entry.run, unready=event.reason))
        plan_probe(draft, container, draft.now + probes.READY_INTERVAL)
        return
    health, failures = entry.service.health, entry.run.failures + 1
    assert health is not None
    draft.change(container, run=replace(entry.run, failures=failures))
    if failures <= health.failures:
        # Not each one of a container that is unhealthy for days.
        _log_probe(
            draft, container, f"has failed ({failures} of {health.failures}): {event.reason}"
        )
    if failures < health.failures:
        _await_next(draft, entry, entry.state, entry.reason)
        return
    reason = f"unhealthy: {event.reason}"
    if health.action is HealthAction.NONE:
        _await_next(draft, entry, ContainerState.UNHEALTHY, reason)
        return
    enter(draft, container, ContainerState.UNHEALTHY, reason)
    stops.begin_stop(draft, container, reason, fault=reason)


def probe_lacking(draft: Draft, event: events.ProbeLacking) -> None:
    """Try again later: what the runtime lacks is no failure of a container."""
    entry = _probed(draft, event.container)
    if entry is None:
        return
    if draft.state.lacking is None:
        draft.set(lacking=draft.now)
        text = f"Cannot probe {event.container}, and maybe others: {event.reason}"
        draft.act(Log(logging.WARNING, f"{text}; this is not counted as a failure of theirs"))
    if entry.state is ContainerState.RUNNING:
        plan_probe(draft, entry.container, draft.now + probes.READY_INTERVAL)
    else:
        _await_next(draft, entry, entry.state, entry.reason)


def _probed(draft: Draft, container: Container) -> Entry | None:
    """Return the entry of a container whose probe has ended; None if none was in progress."""
    entry = draft.state.containers.get(container)
    if entry is None or not entry.probing:
        return None
    draft.change(container, probing=False)
    return draft.state.containers[container]


def _executed(draft: Draft) -> None:
    """Record that the runtime has what probes need. A warning is not repeated within a minute."""
    lacking = draft.state.lacking
    if lacking is not None and draft.now - lacking >= LACKING_PAUSE:
        draft.set(lacking=None)


def _await_next(draft: Draft, entry: Entry, state: ContainerState, reason: str) -> None:
    """Keep or enter a state in which the health is probed again; the watchdog goes on."""
    health = entry.service.health
    assert health is not None
    following = draft.now + health.interval
    if state is entry.state:
        plan_probe(draft, entry.container, following)
    else:
        enter(draft, entry.container, state, reason, deadline=entry.deadline, next_probe=following)


def _log_probe(draft: Draft, container: Container, what: str) -> None:
    draft.act(Log(logging.INFO, f"Probe of {container} {what}"))
