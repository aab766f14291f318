"""A package that is being received, and then installed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from northstar.core import events
from northstar.core.events import Event
from northstar.model import Container, sentence
from northstar.runtime.repository import IncomingFile, Package, Repository

T = TypeVar("T")

Apply = Callable[[Event], None]
"""Gives an event to the core, and executes its actions; raises RefusedError on a refusal."""

Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]
"""Runs a coroutine to its end, even if the client disconnects."""


class IncomingWriter(ABC, Generic[T]):
    """Writes a package to a file while it is received. `commit` or `abort` ends it.

    The caller calls `abort` unless `commit` succeeded, also after a failure of `write` or `commit`.
    `abort` is idempotent and leaves nothing behind.
    """

    def __init__(
        self, apply: Apply, spawn: Spawn, repository: Repository, file: IncomingFile
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
        self._committing: asyncio.Task[Any] | None = None

    async def write(self, chunk: bytes) -> None:
        """Store the next bytes.

        Raises:
            RefusedError: the repository's capacity is exceeded.
            OSError: the bytes could not be stored.
        """
        self._received += len(chunk)
        self._apply(events.PackageGrew(self._repository.identifier, self._received))
        await self._file.write(chunk)

    @abstractmethod
    async def commit(self) -> T:
        """Verify the received package and use it; return the result of the request.

        Raises:
            RefusedError: the core refuses it.
            PackageError: it is not a valid package.
            OSError: it could not be stored.
        """

    async def _verified(self) -> Package:
        """Return the received package, which the caller keeps or closes."""
        package = await self._file.verify()
        try:
            self._repository.refuse_retired(package)
        except BaseException:
            package.npk.close()
            raise
        return package

    async def abort(self) -> None:
        """Discard what was received. A commit in progress is completed first."""
        if self._committing is not None:
            await asyncio.wait((self._committing,))
        await self._file.discard()


class PackageWriter(IncomingWriter[Container]):
    """Stores a package during an install."""

    async def commit(self) -> Container:
        """Store the package, and add it as an installed container.

        Raises:
            RefusedError: the container is already installed, or the repository is full.
            PackageError: it is not a valid package.
            OSError: it could not be stored.
        """
        self._committing = self._spawn(self._commit())
        container: Container = await asyncio.shield(self._committing)
        return container

    async def _commit(self) -> Container:
        identifier = self._repository.identifier
        package = await self._verified()
        container = package.container
        service = package.npk.manifest.service
        after = () if service is None else service.after
        try:
            self._apply(events.PackageVerified(identifier, container, package.npk.size, after))
        except BaseException:
            package.npk.close()
            raise
        try:
            await store(self._repository, self._file, package)
        except BaseException as failure:
            self._apply(events.StoreFailed(identifier, container, sentence(failure)))
            raise
        self._apply(events.PackageStored(identifier, package.npk.manifest))
        return container


async def store(repository: Repository, file: IncomingFile, package: Package) -> None:
    """Store a verified package, which the core has reserved the space of.

    Raises:
        OSError: it could not be stored; it is closed, and nothing of it is left.
    """
    # From here on the repository assigns its container and its file name to no other package.
    repository.keep(package)
    try:
        await file.store(package)
    except BaseException:
        try:
            await file.discard()
        finally:
            repository.forget(package.container)
        raise
