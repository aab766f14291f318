"""State changes that several events share."""

from __future__ import annotations

from collections.abc import Iterable

from northstar.api import error
from northstar.core.actions import Complete, Mount, Umount
from northstar.core.values import Draft, Image, Operation
from northstar.model import Container


def complete(
    draft: Draft, container: Container, operation: Operation, failure: error.Error | None = None
) -> None:
    """Answer the current request on a container, if it is of the given kind."""
    entry = draft.state.containers[container]
    if entry.operation is operation:
        draft.change(container, operation=None)
        draft.act(Complete(container, failure))


def mount(draft: Draft, containers: Iterable[Container]) -> None:
    """Mount those images that are neither mounted nor in transition."""
    for container in containers:
        if draft.state.containers[container].image is Image.UNMOUNTED:
            draft.change(container, image=Image.MOUNTING)
            draft.act(Mount(container))


def umount(draft: Draft, container: Container) -> None:
    """Unmount a mounted image that is not in use."""
    draft.change(container, image=Image.UNMOUNTING)
    draft.act(Umount(container))
