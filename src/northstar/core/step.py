"""The one function that decides: an event in, a changed state and actions out, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from northstar.api import RefusedError, error
from northstar.core import events, images, packages, runs, shutdown
from northstar.core.actions import Action
from northstar.core.events import Event, Request
from northstar.core.values import Draft, State
from northstar.model import InternalError


class Changed(NamedTuple):
    """What an event leads to.

    Attributes:
        state: the new state.
        actions: what is to be done now, in this order.
    """

    state: State
    actions: tuple[Action, ...]


class Refused(NamedTuple):
    """A request is refused; the state stays as it was."""

    error: error.Error


_HANDLERS: Final[dict[type, Callable[[Draft, Any], None]]] = {
    events.MountRequested: images.mount_requested,
    events.UmountRequested: images.umount_requested,
    events.ImageMounted: images.mounted,
    events.MountFailed: images.mount_failed,
    events.ImageUnmounted: images.unmounted,
    events.UmountFailed: images.umount_failed,
    events.ImageLost: images.lost,
    events.StartRequested: runs.start_requested,
    events.KillRequested: runs.kill_requested,
    events.Executed: runs.executed,
    events.StartFailed: runs.start_failed,
    events.DirectoryMissing: runs.directory_missing,
    events.SignalSent: runs.signal_sent,
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
    events.ShutdownBegan: shutdown.began,
    events.EndAll: shutdown.end_all,
    events.UmountAll: shutdown.umount_all,
}


def step(state: State, event: Event, now: int) -> Changed | Refused:
    """Decide what an event leads to.

    An observation that does not fit the state changes nothing and leads to no action: the runtime
    reports what happened, and is not asked whether it still matters.

    Args:
        state: what is known.
        event: what happened.
        now: when, in ns of CLOCK_MONOTONIC.

    Raises:
        InternalError: a request on a container on which another one is going on.
    """
    draft = Draft(state, now)
    if isinstance(event, Request):
        entry = state.containers.get(event.container)
        if entry is not None and entry.operation is not None:
            what = f"{type(event).__name__} of {event.container} during {entry.operation.value}"
            raise InternalError(f"two requests on a container at a time: {what}")
    try:
        _HANDLERS[type(event)](draft, event)
    except RefusedError as refused:
        return Refused(refused.error)
    return Changed(draft.state, tuple(draft.actions))
