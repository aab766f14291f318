"""Images: mounting and unmounting, on request and for a start.

An image is mounted once for all its users. A start that needs an image in transition waits until
the transition ends: a container may be the resource of several starts, and an earlier request may
be unmounting it.
"""

from __future__ import annotations

import logging

from northstar.api import RefusedError, error
from northstar.api.status import ContainerState
from northstar.core import events, starts
from northstar.core.actions import Log, RemovePackage
from northstar.core.requests import entry_of, refuse_if_stopping, refuse_if_used
from northstar.core.transitions import complete, mount, umount
from northstar.core.values import Draft, Image, Operation
from northstar.model import Container


def mount_requested(draft: Draft, event: events.MountRequested) -> None:
    """Mount the image, or wait if a start is already mounting it."""
    refuse_if_stopping(draft.state)
    container = event.container
    entry = entry_of(draft.state, container)
    if entry.image is Image.MOUNTED:
        raise RefusedError(error.InvalidContainer(container))
    draft.change(container, operation=Operation.MOUNT)
    mount(draft, (container,))


def umount_requested(draft: Draft, event: events.UmountRequested) -> None:
    """Unmount the image, if nothing uses it."""
    refuse_if_stopping(draft.state)
    container = event.container
    entry = entry_of(draft.state, container)
    if entry.image is Image.UNMOUNTED:
        raise RefusedError(error.UmountBusy(container))
    refuse_if_used(draft.state, entry)
    draft.change(container, operation=Operation.UMOUNT)
    umount(draft, container)


def mounted(draft: Draft, event: events.ImageMounted) -> None:
    """Answer a mount request, and continue the starts that waited for the image."""
    container = event.container
    if _change_image(draft, container, Image.MOUNTING, Image.MOUNTED):
        draft.act(Log(logging.INFO, f"Mounted {container}"))
        complete(draft, container, Operation.MOUNT)
        starts.image_settled(draft, container)


def mount_failed(draft: Draft, event: events.MountFailed) -> None:
    """Answer a mount request with the failure, and fail the starts that waited for the image."""
    container = event.container
    if _change_image(draft, container, Image.MOUNTING, Image.UNMOUNTED):
        reason = error.Unexpected(f"cannot mount {container}: {event.reason}")
        complete(draft, container, Operation.MOUNT, reason)
        starts.image_failed(draft, container, event.reason)
        starts.image_settled(draft, container)


def unmounted(draft: Draft, event: events.ImageUnmounted) -> None:
    """Answer a request; mount the image again for starts that were requested meanwhile."""
    container = event.container
    if not _change_image(draft, container, Image.UNMOUNTING, Image.UNMOUNTED):
        return
    draft.act(Log(logging.INFO, f"Umounted {container}"))
    complete(draft, container, Operation.UMOUNT)
    if draft.state.containers[container].state is ContainerState.REMOVING:
        draft.act(RemovePackage(container))
    else:
        starts.image_settled(draft, container)


def umount_failed(draft: Draft, event: events.UmountFailed) -> None:
    """Answer a request with the failure; the image stays usable."""
    container = event.container
    if not _change_image(draft, container, Image.UNMOUNTING, Image.MOUNTED):
        return
    failure = error.Unexpected(f"cannot unmount {container}: {event.reason}")
    if draft.state.containers[container].operation is None:
        draft.act(Log(logging.WARNING, str(failure)))
    complete(draft, container, Operation.UMOUNT, failure)
    if draft.state.containers[container].state is ContainerState.REMOVING:
        starts.keep_installed(draft, container, failure)
    starts.image_settled(draft, container)


def lost(draft: Draft, event: events.ImageLost) -> None:
    """Record that another program has unmounted an image; the next use mounts it again."""
    if _change_image(draft, event.container, Image.MOUNTED, Image.UNMOUNTED):
        draft.act(Log(logging.WARNING, f"{event.container} is not mounted any more"))


def _change_image(draft: Draft, container: Container, before: Image, after: Image) -> bool:
    entry = draft.state.containers.get(container)
    if entry is None or entry.image is not before:
        return False
    draft.change(container, image=after)
    return True
