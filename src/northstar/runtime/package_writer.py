"""A package that is being received and installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from northstar.core import events
from northstar.core.events import Event
from northstar.model import Container
from northstar.runtime.repository import IncomingFile, Repository

Apply = Callable[[Event], None]
"""Gives an event to the core, and executes its actions; raises RefusedError on a refusal."""


class PackageWriter:
    """Stores a package during an install. `commit` or `abort` ends it.

    The caller calls `abort` unless `commit` succeeded, also after a failure of `write` or `commit`.
    `abort` is idempotent and leaves nothing behind.
    """

    def __init__(
        self,
        apply: Apply,
        spawn: Callable[..., asyncio.Task[Container]],
        repository: Repository,
        file: IncomingFile,
    ) -> None:
        """Receive into a file.

        Args:
            apply: gives events to the core.
            spawn: runs a coroutine to its end, even if the client disconnects.
            repository: the repository of the package.
            file: receives its bytes.
        """
        self._apply = apply
        self._spawn = spawn
        self._repository = repository
        self._file = file
        self._received = 0
        self._committing: asyncio.Task[Container] | None = None

    async def write(self, chunk: bytes) -> None:
        """Store the next bytes.

        Raises:
            RefusedError: the repository's capacity is exceeded.
            OSError: the bytes could not be stored.
        """
        self._received += len(chunk)
        self._apply(events.PackageGrew(self._repository.identifier, self._received))
        await self._file.write(chunk)

    async def commit(self) -> Container:
        """Verify the received package, store it and add it as an installed container.

        Raises:
            RefusedError: the container is already installed, or the repository is full.
            PackageError: it is not a valid package.
            OSError: it could not be stored.
        """
        self._committing = self._spawn(self._commit())
        return await asyncio.shield(self._committing)

    async def _commit(self) -> Container:
        identifier = self._repository.identifier
        package = await self._file.verify()
        container = package.container
        service = package.npk.manifest.service
        after = () if service is None else service.after
        try:
            self._repository.refuse_retired(package)
            self._apply(events.PackageVerified(identifier, container, package.npk.size, after))
        except BaseException:
            package.npk.close()
            raise
        # From here on the repository assigns its container and its file name to no other package.
        self._repository.keep(package)
        try:
            await self._file.store(package)
        except BaseException:
            try:
                await self._file.discard()
            finally:
                self._repository.forget(container)
                self._apply(events.StoreFailed(identifier, container))
            raise
        self._apply(events.PackageStored(identifier, package.npk.manifest))
        return container

    async def abort(self) -> None:
        """Discard what was received. A commit in progress is completed first."""
        if self._committing is not None:
            await asyncio.wait((self._committing,))
        await self._file.discard()
