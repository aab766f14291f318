"""An installed container: its package, its image's mount, who uses it, what runs of it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from northstar.api import RefusedError, error
from northstar.launch.plan import Command
from northstar.linux import loop
from northstar.manifest import RESERVED_ENV, Manifest, Resource
from northstar.manifest.bounds import INIT_MAX
from northstar.model import Container, quote
from northstar.runtime import mounts
from northstar.runtime.process import Process
from northstar.runtime.repository import Package, Repository

log = logging.getLogger("northstar.runtime")


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

    def __init__(self, package: Package, repository: Repository, target: str) -> None:
        self.package = package
        self.repository = repository
        self.target = target
        self.lock = asyncio.Lock()
        self.users: set[Container] = set()
        self.process: Process | None = None
        self.removed = False
        self._mounted = False
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
        """Whether its image is mounted."""
        return self._mounted

    @property
    def ready(self) -> bool:
        """Whether its image is mounted, and stays so for whoever uses it from now on."""
        return self._mounted and not self._mount_lock.locked()

    async def mount(self, attach: loop.Attach) -> None:
        """Mount the image, if it is not mounted.

        Args:
            attach: binds a loop device.

        Raises:
            HostError, PackageError, OSError: it cannot be mounted; nothing is left behind.
        """
        async with self._mount_lock:
            if self._mounted:
                return
            await asyncio.to_thread(
                mounts.mount_image,
                self.package.npk,
                self.target,
                attach=attach,
                how=self.repository.config.verity,
            )
            self._mounted = True
            log.info("Mounted %s", self.container)

    async def umount(self) -> None:
        """Unmount the image, if it is mounted; who begins to use it meanwhile waits.

        Raises:
            RefusedError: it is in use.
        """
        async with self._mount_lock:
            self.refuse_if_used()
            if not self._mounted:
                return
            try:
                await asyncio.to_thread(mounts.umount_image, self.target)
            except OSError as failure:
                reason = f"cannot unmount {self.container}: {failure}"
                raise RefusedError(error.Unexpected(reason)) from failure
            self._mounted = False
            log.info("Umounted %s", self.container)

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
            raise RefusedError(error.InvalidArguments(f"{quote(name)} is no name of a variable"))
    if not init and manifest.init is None:
        raise RefusedError(error.StartContainerResource(manifest.container))
    program = manifest.init or ""
    if init:
        # Counted before: a request has room for many of them.
        own = manifest.init or "<INIT>"
        size = len(init) + init.count("<INIT>") * (len(own) - len("<INIT>"))
        if size > INIT_MAX:
            raise RefusedError(
                error.InvalidArguments(f"an init of {size} characters is too long ({INIT_MAX})")
            )
        program = init.replace("<INIT>", own)
    return Command(
        init=program,
        arguments=tuple(arguments) or manifest.args,
        environment=environment or manifest.env,
    )
