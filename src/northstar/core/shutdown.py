"""The steps of the shutdown; the runtime decides how long all of them may take.

`service.stop` and `service.after` apply: a container is sent its stop signal when no container that
comes after it has a process. A container without `service` is sent SIGTERM at once.
"""

from __future__ import annotations

import signal
from typing import Final

from msgspec.structs import replace

from northstar.api.status import ContainerState, Wanted
from northstar.core import events, order, stops
from northstar.core.transitions import enter, umount
from northstar.core.values import PENDING, Deferred, Draft, Image, State
from northstar.model import Container

_REASON: Final = "shutdown"


def began(draft: Draft, event: events.ShutdownBegan) -> None:  # noqa: ARG001
    """Refuse new requests from now on. Nothing is restarted, and no readiness is awaited."""
    draft.set(stopping=True)
    for container, entry in tuple(draft.state.containers.items()):
        if entry.state in PENDING:
            enter(draft, container, ContainerState.INSTALLED, _REASON, wanted=Wanted.DOWN)
        elif entry.state is not ContainerState.STOPPING and (entry.timer or entry.probing):
            enter(draft, container, entry.state)
        elif Deferred.RESTART in entry.deferred:
            enter(draft, container, entry.state, wanted=Wanted.DOWN, deadline=entry.deadline)


def stop_all(draft: Draft, event: events.StopAll) -> None:
    """Stop the containers in the reverse order of their `after`."""
    draft.set(stop_timeout=event.timeout)
    advance(draft)


def advance(draft: Draft) -> None:
    """Stop each container that no other one comes after any more."""
    least = draft.state.stop_timeout
    left = [draft.state.containers[container] for container in with_process(draft.state)]
    # One that was sent SIGKILL, at the limit of the shutdown, needs no other signal.
    left = [
        entry
        for entry in left
        if (run := entry.run) and run.status is None and not (run.ordered or run.killed)
    ]
    if least is None or not left:
        return
    blocked = order.blocked(draft.state)
    for entry in left:
        container, stop = entry.container, entry.service.stop
        supervised = entry.manifest.service is not None
        if supervised and container.name in blocked:
            continue
        assert entry.run is not None
        draft.change(container, run=replace(entry.run, ordered=True))
        timeout = least if stop is None else stop.timeout
        if entry.state is ContainerState.STOPPING and entry.deadline is not None:
            timeout = min(timeout, entry.deadline - draft.now)
        stops.begin_stop(
            draft,
            container,
            _REASON,
            wanted=Wanted.DOWN,
            timeout=timeout,
            again=not supervised,
        )


def signal_all(draft: Draft, event: events.SignalAll) -> None:
    """Send a signal to every container that has a process."""
    for container in with_process(draft.state):
        stops.send_signal(draft, container, event.number)
        run = draft.state.containers[container].run
        if event.number == signal.SIGKILL and run is not None and run.status is None:
            enter(draft, container, ContainerState.STOPPING, run=replace(run, killed=True))


def umount_all(draft: Draft, event: events.UmountAll) -> None:  # noqa: ARG001
    """Unmount every image that is not in use. A used image stays: its user could not be ended."""
    for container, entry in draft.state.containers.items():
        idle = entry.run is None and not draft.state.users_of(container)
        if idle and entry.image is Image.MOUNTED:
            umount(draft, container)


def with_process(state: State) -> list[Container]:
    """Return the containers that have a process, or are being cleaned up."""
    return [container for container, entry in state.containers.items() if entry.has_process]


def all_killed(state: State) -> bool:
    """Return whether each container that has a process was sent SIGKILL, or has exited."""
    runs = [state.containers[container].run for container in with_process(state)]
    return all(run is None or run.killed or run.status is not None for run in runs)
