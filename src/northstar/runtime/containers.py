"""An installed container: its package, its image's mount, who uses it, what runs of it."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from northstar.api import RefusedError, error
from northstar.devices import image_mount
from northstar.devices.loop_device import Attach
from northstar.manifest import RESERVED_ENV, Command, Manifest, Resource
from northstar.model import Container, NorthstarError
from northstar.runtime.directories import Held
from northstar.runtime.process import Process
from northstar.runtime.repository import Package, Repository

log = logging.getLogger("northstar.runtime")


_REMOVED: Final = "another program has removed its directory, or unmounted it"


class Installed:
    """A container that is installed, and what is going on with it.

    Attributes:
        package: its package.
        repository: where the package is kept.
        target: where its image is mounted, or would be.
        lock: held by the one operation on this container that is going on.
        users: the started or starting containers that have this one mounted as a resource.
        process: while it is started, until its exit is notified.
        removed: it is being uninstalled: nobody may begin to use it.
    """

    def __init__(self, package: Package, repository: Repository, run_dir: Held) -> None:
        self.package = package
        self.repository = repository
        self.target = os.path.join(run_dir.path, str(package.container))
        self.lock = asyncio.Lock()
        self.users: set[Container] = set()
        self.process: Process | None = None
        self.removed = False
        self._run_dir = run_dir
        # What we have mounted and not unmounted. Another program may have ended the mount.
        self._root: image_mount.Root | None = None
        # A lock of its own, since a start also mounts what it uses, whose own operations may be
        # going on: two apps that use each other would wait for each other's `lock` for ever.
        self._mount_lock = asyncio.Lock()

    @property
    def container(self) -> Container:
        """Its identity."""
        return self.package.container

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.package.npk.manifest

    @functools.cached_property
    def serialised(self) -> dict[str, Any]:
        """Its manifest as an inspect answer has it: made when that is asked for first."""
        return self.manifest.to_builtins()

    @property
    def mounted(self) -> bool:
        """Whether its image is mounted, now and where it belongs."""
        return self._root is not None and image_mount.is_mounted(self.target, self._root)

    @property
    def has_mount(self) -> bool:
        """Whether we have mounted its image, and not unmounted it: another program may have."""
        return self._root is not None

    @property
    def ready(self) -> bool:
        """Whether its image is mounted, and stays so for whoever uses it from now on."""
        return self.mounted and not self._mount_lock.locked()

    async def mount(self, attach: Attach) -> None:
        """Mount the image, if it is not mounted; anew, if another program has ended the mount.

        Who runs already keeps what it has: its mount namespace has mounts of its own.

        Args:
            attach: binds a loop device.

        Raises:
            HostError, PackageError, OSError: it cannot be mounted; nothing is left behind.
        """
        async with self._mount_lock:
            if self.mounted:
                return
            # Before anything is given up: a run_dir that was moved away has our mounts in it.
            self._run_dir.restore()
            if self._root is not None:
                self._root = None
                log.warning("The mount %s is gone, mounting it anew: %s", self.target, _REMOVED)
            self._root = await self.repository.mounts.run(
                image_mount.mount_image,
                self.package.npk,
                self.target,
                attach=attach,
                how=self.repository.config.verity,
            )
            log.info("Mounted %s", self.container)

    async def umount(self) -> None:
        """Unmount the image, if it is mounted; who begins to use it meanwhile waits.

        Raises:
            RefusedError: it is in use.
        """
        async with self._mount_lock:
            self.refuse_if_used()
            if self._root is None:
                return
            try:
                self._run_dir.refuse_if_moved()
                found = await self.repository.mounts.run(image_mount.umount_image, self.target)
            except (NorthstarError, OSError) as failure:
                reason = f"cannot unmount {self.container}: {failure}"
                raise RefusedError(error.Unexpected(reason)) from failure
            self._root = None
            if found:
                log.info("Umounted %s", self.container)
            else:
                log.warning("The mount %s was gone already: %s", self.target, _REMOVED)

    def refuse_if_used(self) -> None:
        """Refuse what must not happen while the image is in use.

        Raises:
            RefusedError: it is started, or a started container's resource.
        """
        if self.process is not None:
            raise RefusedError(error.UmountBusy(self.container))
        if self.users:
            raise RefusedError(error.UmountBusy(min(self.users)))


def newest_match(resource: Resource, installed: Iterable[Container]) -> Container | None:
    """Return the newest of `installed` that fulfils what a resource mount asks for."""
    matching = (
        container
        for container in installed
        if container.name == resource.name and resource.version.matches(container.version)
    )
    return max(matching, default=None)


def command_of(
    manifest: Manifest,
    init: str | None,
    arguments: Sequence[str],
    environment: Mapping[str, str],
) -> Command:
    """Return what a start request executes; what is empty in it is the manifest's.

    Raises:
        RefusedError: a variable that the runtime sets itself, or no init anywhere.
    """
    for name in environment:
        if name in RESERVED_ENV:
            raise RefusedError(error.InvalidArguments(f"the variable {name} is reserved"))
        if not name or "=" in name:
            raise RefusedError(error.InvalidArguments(f"{name!r} is no name of a variable"))
    if not init and manifest.init is None:
        raise RefusedError(error.StartContainerResource(manifest.container))
    program = manifest.init or ""
    if init:
        program = init.replace("<INIT>", manifest.init) if manifest.init is not None else init
    return Command(
        init=program,
        arguments=tuple(arguments) or manifest.args,
        environment=environment or manifest.env,
    )
