"""Repositories: where packages are stored, in memory or in a directory.

A package comes in as a stream, into a memfd or a temporary file; it is verified, checked against
what is known, and only then kept. Every call that may block is made in the repository's own
threads, also close(2): that of a file which was removed frees its blocks, and waits for the disk.

Other programs may change the directory at any time. What they put there is never removed or
replaced, whatever it is called: a file is ours if it is the very inode that we have open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, cycle
from typing import Final, NamedTuple

import msgspec

from northstar import npk
from northstar.api import RefusedError, error
from northstar.linux import memfd
from northstar.model import Container, NorthstarError
from northstar.runtime.config import RepositoryConfig
from northstar.runtime.threads import Pool

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


Admit = Callable[[Container], None]
"""Refuses (RefusedError) a container that must not be added; called just before it is kept."""


class Repository(ABC):
    """One repository: its packages by their container, and the capacity it may use.

    Attributes:
        storage: the threads that read and write its packages.
        mounts: the threads that mount its images, and look into them.
    """

    def __init__(
        self,
        identifier: str,
        config: RepositoryConfig,
        key: bytes | None,
        storage: Pool,
        mounts: Pool,
    ) -> None:
        self.identifier = identifier
        self.config = config
        self.key = key
        self.storage = storage
        self.mounts = mounts
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
        """Remove a package for good; a file that another program has put in its place stays.

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
        opened = await self._repository.storage.run(
            npk.open, self._descriptor, self._repository.key
        )
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
        self,
        identifier: str,
        config: RepositoryConfig,
        key: bytes | None,
        storage: Pool,
        mounts: Pool,
        directory: str,
    ) -> None:
        super().__init__(identifier, config, key, storage, mounts)
        self.directory = directory
        self._refused: dict[str, _FileState] = {}

    async def load(self, known: Callable[[Container], bool]) -> None:
        """Load every file of the directory, in parallel; the first by file name counts."""
        names = await self.storage.run(self._file_names)
        shares = [names[first::_READERS] for first in range(min(_READERS, len(names)))]
        # Nothing is mounted yet: all threads can read.
        pools = cycle((self.storage, self.mounts))
        opened: dict[str, Package | None] = {}
        for read in await asyncio.gather(*(next(pools).run(self._read, s) for s in shares)):
            opened |= read
        for package in map(opened.__getitem__, names):
            if package is None:
                continue
            container = package.container
            if container in self.packages or known(container):
                log.warning("Skipping %s: %s is already known", package.path, container)
                package.npk.close()
            else:
                self.packages[container] = package

    def _file_names(self) -> list[str]:
        names = []
        for name in sorted(os.listdir(self.directory)):
            if name.startswith(_PARTIAL):
                log.info("Removing %s of an interrupted install", self._path(name))
                try:
                    os.unlink(self._path(name))
                except OSError as failure:
                    log.warning("Cannot remove it, leaving it alone: %s", failure)
            else:
                names.append(name)
        return names

    def _read(self, names: Sequence[str]) -> dict[str, Package | None]:
        return {name: self._open(name) for name in names}

    def _open(self, name: str) -> Package | None:
        path = self._path(name)
        try:
            return Package(npk.open(path, self.key), path)
        except (NorthstarError, OSError) as failure:
            log.warning("Cannot load %s, leaving it alone: %s", path, failure)
            with contextlib.suppress(OSError):
                self._refused[path] = _file_state(path)
            return None

    async def receive(self) -> Reception:
        """Begin to receive a package into a temporary file of the directory."""
        return await self.storage.run(_FsReception, self)

    async def remove(self, container: Container) -> None:
        """Remove the very file that the package was loaded from."""
        package = self.packages[container]
        await self.storage.run(self._remove, package)
        del self.packages[container]

    def _remove(self, package: Package) -> None:
        path, descriptor = package.path or "", package.npk.fileno()
        try:
            with self.synced():
                if not unlink_same(path, descriptor):
                    log.warning(
                        "%s is not the file that was loaded: another program has removed or "
                        "replaced it. What is there is left alone",
                        path,
                    )
        except OSError as failure:
            if is_same(path, descriptor):
                raise
            # Removed it is, for all who look: only the disk may not know yet.
            log.warning("%s is removed, but a power cut might bring it back: %s", path, failure)
        package.npk.close()

    def free_path(self, container: Container) -> str:
        """Return the path for a package's file: `NAME:VERSION.npk`, or with a number.

        Blocking. Any file name is loaded, so another package may sit on that name; it must not be
        lost.
        """
        # All at once: the event loop's thread adds packages meanwhile.
        packages = tuple(self.packages.values())
        taken = {package.path for package in packages}
        names = chain([f"{container}.npk"], (f"{container}.{n}.npk" for n in count(1)))
        paths = map(self._path, names)
        return next(path for path in paths if path not in taken and self.may_replace(path))

    def may_replace(self, path: str) -> bool:
        """Tell whether a new package may have this path: what is there now would be lost.

        A file that could not be loaded is in nobody's use, unless it was changed since: then it is
        something new. A directory no file can replace. Blocking.

        Raises:
            OSError: nobody can tell, as with EIO or ENAMETOOLONG.
        """
        try:
            state = _file_state(path)
        except FileNotFoundError:
            return True
        return state == self._refused.get(path) and not _is_directory(path)

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
        # A write that was given up may still be going on when the descriptor is to be closed.
        self._using = threading.Lock()

    async def _store(self, chunk: bytes) -> None:
        await self._repository.storage.run(self._write, chunk)

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with self._using:
            while view:
                view = view[os.write(self._descriptor, view) :]

    async def commit(self, admit: Admit) -> Package:
        opened, path = await self._repository.storage.run(self._verify)
        package = Package(opened, path)
        try:
            # Held from here, so that a second stream of the same container is refused.
            self._keep(package, admit)
        except BaseException:
            opened.close()
            raise
        try:
            await self._repository.storage.run(self._rename, path)
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

    def _verify(self) -> tuple[npk.Npk, str]:
        with self._using:
            os.fsync(self._descriptor)
        opened = npk.open(self._temporary, self._repository.key)
        try:
            return opened, self._repository.free_path(opened.container)
        except BaseException:
            opened.close()
            raise

    def _rename(self, path: str) -> None:
        with self._repository.synced():
            # Right before the rename, which would replace what another program puts there.
            if not self._repository.may_replace(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            os.rename(self._temporary, path)
            # From here on this is the file to remove should anything fail.
            self._temporary = path
        self._temporary = ""

    async def abort(self) -> None:
        if self._descriptor >= 0:
            await self._repository.storage.run(self._discard)

    def _discard(self) -> None:
        with self._using:
            if self._descriptor < 0:
                return
            try:
                if self._temporary:
                    unlink_same(self._temporary, self._descriptor)
            finally:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)


def is_same(path: str, descriptor: int) -> bool:
    """Tell whether what is at `path`, or where a link there leads to, is this open file.

    While it is open its inode is no other file's.

    Raises:
        OSError: nobody can tell.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError as failure:
        if failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def unlink_same(path: str, descriptor: int) -> bool:
    """Unlink `path` if it is this open file; tell whether it was.

    Linux has no call that unlinks what a descriptor stands for. So another program can still put a
    file there between the comparison and unlink(2), which are two system calls in a row: then that
    file is removed. (To rename the file to a name of ours first would close this gap, and open
    another one: that needs room for one more name, and a full disk must not keep anybody from
    removing a package.)

    Raises:
        OSError: it is this file, and cannot be removed.
    """
    if not is_same(path, descriptor):
        return False
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class _FileState(NamedTuple):
    """A file, and when it was last changed."""

    device: int
    inode: int
    changed_ns: int


def _file_state(path: str) -> _FileState:
    status = os.lstat(path)
    return _FileState(status.st_dev, status.st_ino, status.st_ctime_ns)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _full(identifier: str, capacity: str) -> RefusedError:
    reason = f"repository {identifier} is full (capacity: {capacity}); uninstall something first"
    return RefusedError(error.Unexpected(reason))
