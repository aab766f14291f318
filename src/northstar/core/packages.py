"""Repositories: capacity, installing and uninstalling."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from northstar.api import RefusedError, error, notification
from northstar.api.status import ContainerState, Wanted
from northstar.core import events, order, starts
from northstar.core.actions import Complete, Log, Publish, RemovePackage, WipeData
from northstar.core.choice import users_of
from northstar.core.requests import (
    entry_of,
    refuse_below_floor,
    refuse_if_stopping,
    refuse_if_updated,
    refuse_if_used,
    refused_by_update,
)
from northstar.core.transitions import enter, umount
from northstar.core.values import Draft, Entry, Image, Operation, Repository, State, without
from northstar.model import Container, Name, listed
from northstar.model.units import describe_size


def install_requested(draft: Draft, event: events.InstallRequested) -> None:
    """Refuse a package if the repository is unknown or full."""
    refuse_if_stopping(draft.state)
    refuse_if_full(draft.state, event.repository, event.size)


def grew(draft: Draft, event: events.PackageGrew) -> None:
    """Refuse a package that exceeds the capacity; other packages may have arrived meanwhile."""
    refuse_if_full(draft.state, event.repository, event.size)


def refuse_if_full(state: State, identifier: str, incoming: int) -> None:
    """Refuse a package of `incoming` bytes that a repository has no room for.

    Raises:
        RefusedError: it is full, or unknown.
    """
    repository = _repository(state, identifier)
    number, size = repository.capacity_num, repository.capacity_size
    if number is not None and len(repository.packages) >= number:
        raise _full(identifier, f"its capacity_num is {number}")
    used = sum(repository.packages.values())
    if size is not None and used + incoming > size:
        room = f"{describe_size(incoming)} needed, {describe_size(max(size - used, 0))} free"
        raise _full(identifier, f"{room} of its capacity_size")


def _full(identifier: str, reason: str) -> RefusedError:
    text = f"repository {identifier} is full: {reason}; uninstall something first"
    return RefusedError(error.Unexpected(text))


def _repository(state: State, identifier: str) -> Repository:
    repository = state.repositories.get(identifier)
    if repository is None:
        raise RefusedError(error.InvalidRepository(identifier))
    return repository


def verified(draft: Draft, event: events.PackageVerified) -> None:
    """Reserve space for the package, unless any repository contains the container."""
    refuse_if_stopping(draft.state)
    refuse_below_floor(draft.state, event.repository, event.container)
    reserve(draft, event.repository, event.container, event.size, event.after)


def reserve(
    draft: Draft, repository: str, container: Container, size: int, after: tuple[Name, ...]
) -> None:
    """Reserve the space of a package that is about to be stored.

    Raises:
        RefusedError: a repository contains it, this one is full, or `after` closes a cycle.
    """
    if any(container in known.packages for known in draft.state.repositories.values()):
        raise RefusedError(error.InstallDuplicate(container))
    refuse_if_full(draft.state, repository, size)
    if after:
        _refuse_cycle(draft.state, container, after)
        draft.set(storing={**draft.state.storing, container: after})
    _add_package(draft, repository, container, size)


def release_reserved(draft: Draft, repository: str, container: Container) -> None:
    """Release the space of a package that is not stored. Idempotent."""
    _stored(draft, container)
    _drop_package(draft, repository, container)


def _refuse_cycle(state: State, container: Container, after: tuple[Name, ...]) -> None:
    found = order.cycle_of_new(state, container, after)
    if found is not None:
        path = ", ".join(found)
        reason = f"{container} cannot be installed: service.after makes a cycle: {path}"
        raise RefusedError(error.Unexpected(reason))


def _add_package(draft: Draft, identifier: str, container: Container, size: int) -> None:
    repository = _repository(draft.state, identifier)
    packages = {**repository.packages, container: size}
    _set_packages(draft, identifier, packages)


def _set_packages(draft: Draft, identifier: str, packages: dict[Container, int]) -> None:
    changed = replace(draft.state.repositories[identifier], packages=packages)
    draft.set(repositories={**draft.state.repositories, identifier: changed})


def _drop_package(draft: Draft, identifier: str, container: Container) -> None:
    packages = draft.state.repositories[identifier].packages
    _set_packages(draft, identifier, without(packages, container))


def stored(draft: Draft, event: events.PackageStored) -> None:
    """Add the installed container to the registry."""
    container = event.manifest.container
    _stored(draft, container)
    draft.put(Entry(container, event.manifest, event.repository, draft.now))
    draft.act(Log(logging.INFO, f"Successfully installed {container}"))
    # A package that was verified before the shutdown is stored, but not announced during it.
    if not draft.state.stopping:
        draft.act(Publish(notification.Install(container)))


def store_failed(draft: Draft, event: events.StoreFailed) -> None:
    """Release the reserved space."""
    release_reserved(draft, event.repository, event.container)


def _stored(draft: Draft, container: Container) -> None:
    if container in draft.state.storing:
        draft.set(storing=without(draft.state.storing, container))


def loaded(draft: Draft, event: events.PackageLoaded) -> None:
    """Add a container that was stored before the runtime started; refuse a duplicate."""
    container = event.manifest.container
    if container in draft.state.containers:
        raise RefusedError(error.InstallDuplicate(container))
    if not event.recorded:
        refuse_below_floor(draft.state, event.repository, container)
    _add_package(draft, event.repository, container, event.size)
    draft.put(Entry(container, event.manifest, event.repository, draft.now))


def uninstall_requested(draft: Draft, event: events.UninstallRequested) -> None:
    """Unmount the image, then remove the package."""
    refuse_if_stopping(draft.state)
    container = event.container
    entry = entry_of(draft.state, container)
    if not event.updating:
        refuse_if_updated(draft.state, container)
    refuse_if_used(draft.state, entry)
    if not event.updating and not entry.manifest.is_app:
        _warn_about_users(draft, container)
    running = draft.state.running.get(container.name)
    if event.wipe and running is not None:
        # Persistent data belongs to the name: another version of the container is using it.
        raise RefusedError(error.UmountBusy(running))
    if event.wipe and container.name in draft.state.updates:
        # Neither version may run now: the data is being copied or restored.
        raise refused_by_update(draft.state.updates[container.name].record)
    enter(
        draft,
        container,
        ContainerState.REMOVING,
        wanted=Wanted.DOWN,
        operation=Operation.UNINSTALL,
    )
    if event.wipe:
        draft.set(wiping={**draft.state.wiping, container: True})
    if entry.image is Image.MOUNTED:
        umount(draft, container)
    else:
        draft.act(RemovePackage(container))


def _warn_about_users(draft: Draft, resource: Container) -> None:
    """Log which installed apps cannot start any more without a resource."""
    users = users_of(draft.state, resource)
    if users:
        need = "needs" if len(users) == 1 else "need"
        text = f"{listed(users)} {need} {resource}, which is being uninstalled: no start works"
        draft.act(Log(logging.WARNING, text))


def removed(draft: Draft, event: events.PackageRemoved) -> None:
    """Remove the container from the registry. It is uninstalled, even if the data wipe fails."""
    container = event.container
    entry = draft.state.containers.get(container)
    if entry is None or not _is_being_removed(entry):
        return
    _drop_package(draft, entry.repository, container)
    draft.drop(container)
    draft.act(Publish(notification.Uninstall(container)))
    if container in draft.state.wiping:
        draft.act(WipeData(container))
    else:
        draft.act(Complete(container))


def _is_being_removed(entry: Entry) -> bool:
    return entry.state is ContainerState.REMOVING and entry.image is Image.UNMOUNTED


def removal_failed(draft: Draft, event: events.RemovalFailed) -> None:
    """Answer with the failure; the container stays installed."""
    container = event.container
    entry = draft.state.containers.get(container)
    if entry is not None and _is_being_removed(entry):
        failure = error.Unexpected(f"cannot uninstall {container}: {event.reason}")
        starts.keep_installed(draft, container, failure)


def data_detached(draft: Draft, event: events.DataDetached) -> None:
    """Continue a start of the same name that waited."""
    if _is_being_wiped(draft.state, event.container) and draft.state.wiping[event.container]:
        draft.set(wiping={**draft.state.wiping, event.container: False})
        starts.data_settled(draft, event.container.name)


def data_wiped(draft: Draft, event: events.DataWiped) -> None:
    """Answer, and continue a start of the same name that waited."""
    _wipe_ended(draft, event.container, None)


def wipe_failed(draft: Draft, event: events.WipeFailed) -> None:
    """Answer with the failure; the container is uninstalled nevertheless."""
    container = event.container
    reason = f"{container} is uninstalled, but its data is not wiped: {event.reason}"
    _wipe_ended(draft, container, error.Unexpected(reason))


def _is_being_wiped(state: State, container: Container) -> bool:
    entry = state.containers.get(container)
    # The container may have been installed again meanwhile.
    return container in state.wiping and (
        entry is None or entry.state is not ContainerState.REMOVING
    )


def _wipe_ended(draft: Draft, container: Container, failure: error.Error | None) -> None:
    if _is_being_wiped(draft.state, container):
        draft.set(wiping=without(draft.state.wiping, container))
        draft.act(Complete(container, failure))
        starts.data_settled(draft, container.name)
