"""The steps of the shutdown; the runtime decides how long each step may take."""

from __future__ import annotations

from northstar.core import events, runs
from northstar.core.transitions import umount
from northstar.core.values import Draft, Image, State
from northstar.model import Container


def began(draft: Draft, event: events.ShutdownBegan) -> None:  # noqa: ARG001
    """Refuse new requests from now on."""
    draft.set(stopping=True)


def signal_all(draft: Draft, event: events.SignalAll) -> None:
    """Send a signal to every container that has a process."""
    for container in with_process(draft.state):
        runs.send_signal(draft, container, event.number)


def umount_all(draft: Draft, event: events.UmountAll) -> None:  # noqa: ARG001
    """Unmount every image that is not in use. A used image stays: its user could not be ended."""
    for container, entry in draft.state.containers.items():
        idle = entry.run is None and not draft.state.users_of(container)
        if idle and entry.image is Image.MOUNTED:
            umount(draft, container)


def with_process(state: State) -> list[Container]:
    """Return the containers that have a process, or are being cleaned up."""
    return [container for container, entry in state.containers.items() if entry.has_process]
