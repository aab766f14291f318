"""Repositories: where packages are stored, in memory or in a directory.

A package comes in as a stream, into a memfd or a temporary file; it is verified, checked against
what is known, and only then kept. Every call that may block is made in the thread pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Final

import msgspec

from northstar import npk
from northstar.api import RefusedError, error
from northstar.linux import memfd
from northstar.model import Container, NorthstarError
from northstar.runtime import logs
from northstar.runtime.config import RepositoryConfig

log = logging.getLogger("northstar.runtime")

_READERS: Final = 4
"""Threads that read stored packages: enough to wait for a slow disk at several places. A thread
for each package would cost as much as reading it, which is 0.2 ms of the interpreter's time."""

_PARTIAL: Final = ".northstar-install-"
"""How the file of a package that is still being received begins: removed at the next start."""


class Package(msgspec.Struct, frozen=True):
    """A package in a repository.

    Attributes:
        npk: the open package.
        path: its file, None if it is in memory.
    """

    npk: npk.Npk
    path: str | None

    @property
    def container(self) -> Container:
        """Its identity."""
        return self.npk.container


_NAMED: Final = 20
"""How many files that are not loaded are named: each has a reason of its own, and is a package that
somebody misses."""

Admit = Callable[[Container], None]
"""Refuses (RefusedError) a container that must not be added; called just before it is kept."""


class Repository(ABC):
    """One repository: its packages by their container, and the capacity it may use."""

    def __init__(self, identifier: str, config: RepositoryConfig, key: bytes | None) -> None:
        self.identifier = identifier
        self.config = config
        self.key = key
        self.packages: dict[Container, Package] = {}

    @property
    def size(self) -> int:
        """Sum of the sizes of all package files, in bytes."""
        return sum(package.npk.size for package in self.packages.values())

    def check_capacity(self, incoming: int) -> None:
        """Refuse a package that would exceed the capacity.

        Args:
            incoming: its size in bytes, or the part of it that is known.

        Raises:
            RefusedError: the repository is full.
        """
        number, size = self.config.capacity_num, self.config.capacity_size
        if number is not None and len(self.packages) >= number:
            raise _full(self.identifier, f"{number} packages")
        if size is not None and self.size + incoming > size:
            raise _full(self.identifier, f"{size} bytes")

    @abstractmethod
    async def load(self, known: Callable[[Container], bool]) -> None:
        """Load what is stored; what cannot be loaded is reported and left alone.

        Args:
            known: tells whether a container is in another repository already.

        Raises:
            ConfigurationError: the repository itself is not usable.
        """

    @abstractmethod
    async def receive(self) -> Reception:
        """Begin to receive a package."""

    @abstractmethod
    async def remove(self, container: Container) -> None:
        """Remove a package for good.

        Raises:
            OSError: its file could not be removed; the package is still there.
        """

    def close(self) -> None:
        """Close all packages; what is stored stays."""
        for package in self.packages.values():
            package.npk.close()
        self.packages.clear()


class Reception(ABC):
    """A package that is being received into a repository. `commit` or `abort` ends it."""

    def __init__(self, repository: Repository, descriptor: int) -> None:
        self._repository = repository
        self._descriptor = descriptor
        self._received = 0

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            RefusedError: the repository's capacity is exceeded.
            OSError: the bytes could not be stored.
        """
        self._received += len(chunk)
        self._repository.check_capacity(self._received)
        await self._store(chunk)

    @abstractmethod
    async def _store(self, chunk: bytes) -> None: ...

    @abstractmethod
    async def commit(self, admit: Admit) -> Package:
        """Verify what was received and keep it.

        Raises:
            RefusedError: it is not admitted.
            PackageError: it is no valid package.
            OSError: it could not be stored.
        """

    async def abort(self) -> None:
        """Forget what was received; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _keep(self, package: Package, admit: Admit) -> None:
        # Between these checks and the entry there is no await: no other install comes in between.
        admit(package.container)
        self._repository.check_capacity(package.npk.size)
        self._repository.packages[package.container] = package


class MemRepository(Repository):
    """Packages in sealed memfds: gone with the runtime."""

    async def load(self, known: Callable[[Container], bool]) -> None:
        """Nothing is stored."""

    async def receive(self) -> Reception:
        """Begin to receive a package into a memfd."""
        # The name is what losetup(8) shows: whose loop device it is.
        return _MemReception(self, memfd.create(f"northstar-npk-{os.getpid()}"))

    async def remove(self, container: Container) -> None:
        """Remove a package; its memory is freed when the last mount of it is gone."""
        self.packages.pop(container).npk.close()


class _MemReception(Reception):
    async def _store(self, chunk: bytes) -> None:
        # A copy into memory: quicker than handing it to a thread.
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._descriptor, view) :]

    async def commit(self, admit: Admit) -> Package:
        memfd.seal(self._descriptor)
        opened = await asyncio.to_thread(npk.open, self._descriptor, self._repository.key)
        package = Package(opened, None)
        try:
            self._keep(package, admit)
        except BaseException:
            opened.close()
            raise
        await self.abort()
        return package


class FsRepository(Repository):
    """Packages as files of a directory."""

    def __init__(
        self, identifier: str, config: RepositoryConfig, key: bytes | None, directory: str
    ) -> None:
        super().__init__(identifier, config, key)
        self.directory = directory

    async def load(self, known: Callable[[Container], bool]) -> None:
        """Load every file of the directory, in parallel; the first by file name counts."""
        names = await asyncio.to_thread(self._file_names)
        shares = [names[first::_READERS] for first in range(min(_READERS, len(names)))]
        opened: dict[str, Package | str] = {}
        for read in await asyncio.gather(*(asyncio.to_thread(self._read, s) for s in shares)):
            opened |= read
        self._admit_all(map(opened.__getitem__, names), known)

    def _admit_all(
        self, opened: Iterable[Package | str], known: Callable[[Container], bool]
    ) -> None:
        """Take in what could be opened; log what could not, and what is known already."""
        bad = "%d more files of %s cannot be loaded"
        twice = "%d more packages of %s are skipped: they are already known"
        with (
            logs.first_few(logging.WARNING, bad, self.directory, most=_NAMED) as warn,
            logs.first_few(logging.WARNING, twice, self.directory, most=_NAMED) as skip,
        ):
            for package in opened:
                if isinstance(package, str):
                    warn("%s", package)
                    continue
                container = package.container
                if container in self.packages or known(container):
                    skip("Skipping %s: %s is already known", package.path, container)
                    package.npk.close()
                else:
                    self.packages[container] = package

    def _file_names(self) -> list[str]:
        names = []
        removed = "Removing %d more files of interrupted installs in %s"
        failed = "%d more files of interrupted installs in %s cannot be removed"
        with (
            logs.first_few(logging.INFO, removed, self.directory) as note,
            logs.first_few(logging.WARNING, failed, self.directory) as warn,
        ):
            for name in sorted(os.listdir(self.directory)):
                if not name.startswith(_PARTIAL):
                    names.append(name)
                    continue
                note("Removing %s of an interrupted install", self._path(name))
                try:
                    os.unlink(self._path(name))
                except OSError as failure:
                    warn("Cannot remove it, leaving it alone: %s", failure)
        return names

    def _read(self, names: Sequence[str]) -> dict[str, Package | str]:
        return {name: self._open(name) for name in names}

    def _open(self, name: str) -> Package | str:
        """Open a package; if that fails return a sentence about it."""
        path = self._path(name)
        try:
            return Package(npk.open(path, self.key), path)
        except (NorthstarError, OSError) as failure:
            return f"Cannot load {path}, leaving it alone: {failure}"

    async def receive(self) -> Reception:
        """Begin to receive a package into a temporary file of the directory."""
        return await asyncio.to_thread(_FsReception, self)

    async def remove(self, container: Container) -> None:
        """Remove the very file that the package was loaded from."""
        package = self.packages[container]
        await asyncio.to_thread(self._unlink, package.path or "")
        del self.packages[container]
        package.npk.close()

    def _unlink(self, path: str) -> None:
        try:
            with self.synced(), contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except OSError as failure:
            if os.path.lexists(path):
                raise
            # Removed it is, for all who look: only the disk may not know yet.
            log.warning("%s is removed, but a power cut might bring it back: %s", path, failure)

    def free_path(self, container: Container) -> str:
        """Return the path for a package's file: `NAME:VERSION.npk`.

        Any file name is loaded, so another package may sit on that name; it must not be lost. A
        file that could not be loaded is in nobody's use: the new package replaces it, unless it
        is a directory, which no file can replace.
        """
        taken = {package.path for package in self.packages.values()}
        names = chain([f"{container}.npk"], (f"{container}.{n}.npk" for n in count(1)))
        paths = map(self._path, names)
        return next(path for path in paths if path not in taken and not _is_directory(path))

    @contextlib.contextmanager
    def synced(self) -> Iterator[None]:
        """Make the change of the directory that is done inside durable: fsync(2) of itself.

        It is opened before the change: afterwards there may be no descriptor left for it.
        """
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)


class _FsReception(Reception):
    _repository: FsRepository

    def __init__(self, repository: FsRepository) -> None:
        # Names of receptions must differ within one process only: leftovers go at the start.
        name = f"{_PARTIAL}{os.urandom(8).hex()}"
        self._temporary = os.path.join(repository.directory, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        super().__init__(repository, os.open(self._temporary, flags, 0o644))

    async def _store(self, chunk: bytes) -> None:
        await asyncio.to_thread(self._write, chunk)

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._descriptor, view) :]

    async def commit(self, admit: Admit) -> Package:
        opened = await asyncio.to_thread(self._verify)
        path = self._repository.free_path(opened.container)
        package = Package(opened, path)
        try:
            # Held from here, so that a second stream of the same container is refused.
            self._keep(package, admit)
        except BaseException:
            opened.close()
            raise
        try:
            await asyncio.to_thread(self._rename, path)
        except BaseException:
            try:
                # While its entry is there nobody else gets the name of the file.
                await self.abort()
            finally:
                del self._repository.packages[opened.container]
                opened.close()
            raise
        await self.abort()
        return package

    def _verify(self) -> npk.Npk:
        os.fsync(self._descriptor)
        return npk.open(self._temporary, self._repository.key)

    def _rename(self, path: str) -> None:
        with self._repository.synced():
            os.rename(self._temporary, path)
            # From here on this is the file to remove should anything fail.
            self._temporary = path
        self._temporary = ""

    async def abort(self) -> None:
        if self._temporary:
            await asyncio.to_thread(self._remove_temporary)
        await super().abort()

    def _remove_temporary(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)
        self._temporary = ""


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _full(identifier: str, capacity: str) -> RefusedError:
    reason = f"repository {identifier} is full (capacity: {capacity}); uninstall something first"
    return RefusedError(error.Unexpected(reason))
