"""The function that decides: it maps an event to a changed state and actions, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, get_args

from northstar.api import RefusedError, error
from northstar.core import (
    events,
    images,
    order,
    packages,
    runs,
    shutdown,
    starts,
    stops,
    supervision,
    update,
)
from northstar.core.actions import Action
from northstar.core.events import Event, Request
from northstar.core.values import Draft, State
from northstar.model import InternalError


class Changed(NamedTuple):
    """The result of an event.

    Attributes:
        state: the new state.
        actions: to be executed now, in this order.
    """

    state: State
    actions: tuple[Action, ...]


class Refused(NamedTuple):
    """A request is refused; the state is unchanged."""

    error: error.Error


_HANDLERS: Final[dict[type, Callable[[Draft, Any], None]]] = {
    events.MountRequested: images.mount_requested,
    events.UmountRequested: images.umount_requested,
    events.ImageMounted: images.mounted,
    events.MountFailed: images.mount_failed,
    events.ImageUnmounted: images.unmounted,
    events.UmountFailed: images.umount_failed,
    events.ImageLost: images.lost,
    events.StartRequested: starts.start_requested,
    events.KillRequested: stops.kill_requested,
    events.StopRequested: stops.stop_requested,
    events.RestartRequested: stops.restart_requested,
    events.Executed: starts.executed,
    events.StartFailed: starts.start_failed,
    events.DirectoryMissing: starts.directory_missing,
    events.SignalSent: stops.signal_sent,
    events.Notified: supervision.notified,
    events.DeadlineReached: supervision.deadline_reached,
    events.ProbeSucceeded: supervision.probe_succeeded,
    events.ProbeFailed: supervision.probe_failed,
    events.ProbeLacking: supervision.probe_lacking,
    events.ProcessExited: runs.process_exited,
    events.Released: runs.released,
    events.InstallRequested: packages.install_requested,
    events.PackageGrew: packages.grew,
    events.PackageVerified: packages.verified,
    events.PackageStored: packages.stored,
    events.StoreFailed: packages.store_failed,
    events.PackageLoaded: packages.loaded,
    events.UninstallRequested: packages.uninstall_requested,
    events.PackageRemoved: packages.removed,
    events.RemovalFailed: packages.removal_failed,
    events.DataDetached: packages.data_detached,
    events.DataWiped: packages.data_wiped,
    events.WipeFailed: packages.wipe_failed,
    events.UpdateRequested: update.requested,
    events.UpdateVerified: update.verified,
    events.RecordsLoaded: update.loaded,
    events.BootOrdered: update.booted,
    events.RecordWritten: update.record_written,
    events.RecordFailed: update.record_failed,
    events.DataStepEnded: update.data_step_ended,
    events.UpdateTimeReached: update.time_reached,
    events.ShutdownBegan: shutdown.began,
    events.StopAll: shutdown.stop_all,
    events.SignalAll: shutdown.signal_all,
    events.UmountAll: shutdown.umount_all,
}


_REQUESTS: Final[tuple[type[Request], ...]] = get_args(Request)
"""`isinstance` of a union takes a microsecond, of a tuple a quarter."""


def step(state: State, event: Event, now: int) -> Changed | Refused:
    """Decide the result of an event.

    An observation that does not fit the state changes nothing and causes no action: the runtime
    reports every observation, without checking whether it is still relevant.

    Args:
        state: the current state.
        event: the event.
        now: time of the event, in ns of CLOCK_MONOTONIC.

    Raises:
        InternalError: another request on the same container is not completed.
    """
    draft = Draft(state, now)
    if isinstance(event, _REQUESTS):
        entry = state.containers.get(event.container)
        if entry is not None and entry.operation is not None:
            what = f"{type(event).__name__} of {event.container} during {entry.operation.value}"
            raise InternalError(f"two requests on a container at a time: {what}")
    try:
        if state.updates:
            update.before(draft, event)
        _HANDLERS[type(event)](draft, event)
    except RefusedError as refused:
        return Refused(refused.error)
    if draft.state.updates:
        update.after(draft, event)
    if draft.moved:
        _follow(draft)
    return Changed(draft.state, tuple(draft.actions))


def _follow(draft: Draft) -> None:
    """Decide what a change of any container's state means for those that come before or after."""
    if draft.state.stop_timeout is not None:
        shutdown.advance(draft)
    elif draft.state.pending:
        order.release(draft)
