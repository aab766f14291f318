"""Repositories: they store packages in memory or in a directory.

A package is received as a stream into a memfd or a temporary file, and verified. The core checks it
against the installed containers, and only then it is stored. Every call that may block runs in the
repository's threads, including close(2): on a removed file it frees blocks, and waits for the disk.

Other programs may change the directory at any time. Their files are never removed or replaced,
whatever their names: a file belongs to the repository only if its inode is the one that is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain, count, cycle
from typing import Final, NamedTuple

import msgspec

from northstar import npk
from northstar.linux import memfd
from northstar.model import Container, HostError, NorthstarError, VerificationError, sentence
from northstar.model.text import UNNAMED_PACKAGE
from northstar.model.units import describe_size
from northstar.runtime import logs
from northstar.runtime.config import RepositoryConfig
from northstar.runtime.threads import Pool

log = logging.getLogger("northstar.runtime")

_READERS: Final = 4
"""Number of parallel calls that read stored packages: enough to overlap the waits for a slow disk.
One call per package would cost as much as reading it: 0.2 ms of the interpreter's time."""

_PARTIAL: Final = ".northstar-install:"
"""Prefix of the file of a package that is being received: removed at the next start.

Files of any name are loaded, and an installed package has the name `NAME:VERSION.npk`. The part
after the colon here is not a version, so no package gets such a name."""
_IS_PARTIAL: Final = re.compile(re.escape(_PARTIAL) + r"[0-9a-f]{16}\Z")

_OLDER_PARTIAL: Final = re.compile(r"\.northstar-install-[0-9a-f]{16}\Z")
"""The pattern of earlier releases. A package may have such a name too: a complete one is kept."""

_ZIP_END: Final = b"PK\x05\x06"
_ZIP_END_SPAN: Final = 22 + 0xFFFF
"""Signature of a ZIP archive's end record, and how far from the end of the file it can be."""


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


class Keys(NamedTuple):
    """The public keys that verify the packages of a repository.

    Attributes:
        install: those of packages that are installed.
        load: those of packages that are stored already; contains all of `install`.
    """

    install: tuple[bytes, ...]
    load: tuple[bytes, ...]


NAMED_MAX: Final = 20
"""How many files that cannot be loaded are logged by name: each is a missing package, for its own
reason."""


class Repository(ABC):
    """Stores the packages of one repository. The core decides which packages it may contain.

    Attributes:
        keys: what its packages must be signed with; None if they are not verified.
        packages: the open packages, by container.
        storage: the threads that read and write its packages.
        mounts: the threads that mount and examine its images.
    """

    def __init__(
        self,
        identifier: str,
        config: RepositoryConfig,
        keys: Keys | None,
        storage: Pool,
        mounts: Pool,
    ) -> None:
        self.identifier = identifier
        self.config = config
        self.keys = keys
        self.storage = storage
        self.mounts = mounts
        self.packages: dict[Container, Package] = {}

    @property
    def is_in_memory(self) -> bool:
        """Whether its packages are in memory, so that no access to an image waits for a device."""
        return self.config.dir is None

    @abstractmethod
    async def load(self) -> Sequence[Package]:
        """Open all stored packages. A file that cannot be opened is logged and left alone.

        Returns:
            The packages sorted by file name. The caller passes each to `keep` or closes it:
            several may be of the same container.
        """

    @abstractmethod
    async def receive(self, size: int = 0) -> IncomingFile:
        """Begin to receive a package of `size` bytes; 0 if that is not known.

        Raises:
            HostError: no file can be created.
        """

    def refuse_retired(self, package: Package) -> None:
        """Refuse a package that was verified before its key was retired.

        Raises:
            VerificationError: its key is no more for installs.
        """
        signer = package.npk.signer
        if self.keys is not None and signer is not None and signer not in self.keys.install:
            from northstar.npk.keylist import key_id

            raise VerificationError(
                f"{package.container} is signed by {key_id(signer)}, which was retired meanwhile"
            )

    def keep(self, package: Package) -> None:
        """Add an open package to this repository, and log the warnings about its manifest."""
        self.packages[package.container] = package
        more = "%d more warnings about the manifest of %s"
        with logs.first_few(logging.WARNING, more, package.container) as warn:
            for warning in package.npk.warnings:
                warn("%s: %s", package.container, warning)

    def forget(self, container: Container) -> None:
        """Undo `keep`, and close the package."""
        self.packages.pop(container).npk.close()

    @abstractmethod
    async def remove(self, container: Container) -> None:
        """Remove a package durably. A file that another program has put in its place is kept.

        Raises:
            OSError: its file could not be removed; the package is still stored.
        """

    def close(self) -> None:
        """Close all packages; they stay stored."""
        for package in self.packages.values():
            package.npk.close()
        self.packages.clear()


class IncomingFile(ABC):
    """The file of a package that is being received. `discard` ends it, unless it was stored."""

    def __init__(self, repository: Repository, descriptor: int) -> None:
        self._repository = repository
        self._descriptor = descriptor

    @abstractmethod
    async def write(self, chunk: bytes) -> None:
        """Store the next bytes.

        Raises:
            OSError: they could not be stored.
        """

    @abstractmethod
    async def verify(self) -> Package:
        """Open the received package; the caller closes it, or adds it to the repository.

        Raises:
            PackageError: it is not a valid package.
            OSError: it could not be read.
        """

    @abstractmethod
    async def store(self, package: Package) -> None:
        """Store the package that `verify` returned durably, under its final name.

        Raises:
            OSError: it could not be stored.
        """

    async def discard(self) -> None:
        """Discard received data that is not stored; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class MemRepository(Repository):
    """Packages in sealed memfds: they end with the runtime."""

    async def load(self) -> Sequence[Package]:
        """Return nothing: no package is stored."""
        return ()

    async def receive(self, size: int = 0) -> IncomingFile:  # noqa: ARG002
        """Begin to receive a package into a memfd."""
        # losetup(8) shows the name: it identifies the owner of the loop device.
        return _IncomingMemfd(self, memfd.create(f"northstar-npk-{os.getpid()}"))

    async def remove(self, container: Container) -> None:
        """Remove a package; its memory is freed after its last mount ends."""
        self.forget(container)


class _IncomingMemfd(IncomingFile):
    async def write(self, chunk: bytes) -> None:
        # A copy into memory is faster than passing it to a thread.
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._descriptor, view) :]

    async def verify(self) -> Package:
        memfd.seal(self._descriptor)
        keys = self._repository.keys
        opened = await self._repository.storage.run(
            npk.open, self._descriptor, None if keys is None else keys.install
        )
        return Package(opened, None)

    async def store(self, package: Package) -> None:  # noqa: ARG002
        # The package has a separate descriptor.
        await self.discard()


class FsRepository(Repository):
    """Packages as files in a directory."""

    def __init__(
        self,
        identifier: str,
        config: RepositoryConfig,
        keys: Keys | None,
        storage: Pool,
        mounts: Pool,
        directory: str,
    ) -> None:
        super().__init__(identifier, config, keys, storage, mounts)
        self.directory = directory
        self._refused: dict[str, _FileState] = {}

    async def load(self) -> Sequence[Package]:
        """Open every file of the directory, in parallel."""
        names = await self.storage.run(self._file_names)
        shares = [names[first::_READERS] for first in range(min(_READERS, len(names)))]
        # Nothing is mounted yet, so the threads for mounts can read as well.
        pools = cycle((self.storage, self.mounts))
        opened: dict[str, Package | str] = {}
        for read in await asyncio.gather(*(next(pools).run(self._read, s) for s in shares)):
            opened |= read
        packages: list[Package] = []
        bad = "%d more files of %s cannot be loaded"
        with logs.first_few(logging.WARNING, bad, self.directory, most=NAMED_MAX) as warn:
            for package in map(opened.__getitem__, names):
                if isinstance(package, str):
                    warn("%s", package)
                else:
                    packages.append(package)
        return packages

    def _file_names(self) -> list[str]:
        names = []
        removed = "Removing %d more files of interrupted installs in %s"
        failed = "%d more files of interrupted installs in %s cannot be removed"
        # Unfinished files of an earlier release come last: they may be refused packages, whose name
        # and version another file has, and the first file of a container is loaded.
        listed = os.listdir(self.directory)
        with (
            logs.first_few(logging.INFO, removed, self.directory) as note,
            logs.first_few(logging.WARNING, failed, self.directory) as warn,
        ):
            for name in sorted(listed, key=lambda name: (bool(_OLDER_PARTIAL.match(name)), name)):
                if not _is_partial(self._path(name)):
                    names.append(name)
                    continue
                note("Removing %s of an interrupted install", self._path(name))
                try:
                    os.unlink(self._path(name))
                except OSError as failure:
                    warn("Cannot remove it, leaving it alone: %s", sentence(failure))
        return names

    def _read(self, names: Sequence[str]) -> dict[str, Package | str]:
        return {name: self._open(name) for name in names}

    def _open(self, name: str) -> Package | str:
        """Open a package; on a failure return a message about it."""
        path = self._path(name)
        try:
            keys = None if self.keys is None else self.keys.load
            return Package(npk.open(path, keys), path)
        except (NorthstarError, OSError) as failure:
            with contextlib.suppress(OSError):
                self._refused[path] = _file_state(path)
            return f"Cannot load {path}, leaving it alone: {sentence(failure)}"

    async def receive(self, size: int = 0) -> IncomingFile:
        """Begin to receive a package into a temporary file in the directory."""
        return await self.storage.run(_TemporaryFile, self, size)

    async def remove(self, container: Container) -> None:
        """Remove the file from which the package was loaded, and no other file."""
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
                        "replaced it. The current file is left alone",
                        path,
                    )
        except OSError as failure:
            if is_same(path, descriptor):
                raise
            # The file is unlinked, but the change may not be on the disk yet.
            log.warning(
                "%s is removed, but a power cut might bring it back: %s", path, sentence(failure)
            )
        package.npk.close()

    def free_path(self, container: Container) -> str:
        """Return the path for a package's file: `NAME:VERSION.npk`, or with a number.

        Blocks. Files of any name are loaded, so another package may have that name; it must not be
        lost.
        """
        # An atomic copy: the event loop's thread may add packages meanwhile.
        packages = tuple(self.packages.values())
        taken = {package.path for package in packages}
        names = chain([f"{container}.npk"], (f"{container}.{n}.npk" for n in count(1)))
        paths = map(self._path, names)
        return next(path for path in paths if path not in taken and self.may_replace(path))

    def may_replace(self, path: str) -> bool:
        """Return whether a new package may use this path, and so replace a file at it.

        A file that could not be loaded may be replaced, unless it was changed since: then it is a
        new file. A directory cannot be replaced. Blocks.

        Raises:
            OSError: the path cannot be examined, for example EIO or ENAMETOOLONG.
        """
        try:
            state = _file_state(path)
        except FileNotFoundError:
            return True
        return state == self._refused.get(path) and not _is_directory(path)

    @contextlib.contextmanager
    def synced(self) -> Iterator[None]:
        """Make a change of the directory within the block durable, by fsync(2) of the directory.

        The directory is opened before the change: afterwards no descriptor may be available.
        """
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)


class _TemporaryFile(IncomingFile):
    _repository: FsRepository

    def __init__(self, repository: FsRepository, size: int) -> None:
        """Create the file; `size` is that of the package, for errors."""
        # Unique within this process: files of an earlier one are removed at the start.
        name = f"{_PARTIAL}{os.urandom(8).hex()}"
        self._temporary = os.path.join(repository.directory, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._size = size
        with _explained(repository, size):
            super().__init__(repository, os.open(self._temporary, flags, 0o644))
        # A cancelled write may still be in progress when the descriptor is closed.
        self._lock = threading.Lock()

    async def write(self, chunk: bytes) -> None:
        await self._repository.storage.run(self._write, chunk)

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with self._lock, _explained(self._repository, self._size, self._descriptor):
            while view:
                view = view[os.write(self._descriptor, view) :]

    async def verify(self) -> Package:
        return await self._repository.storage.run(self._verify)

    async def store(self, package: Package) -> None:
        await self._repository.storage.run(self._rename, package.path or "")
        await self.discard()

    def _verify(self) -> Package:
        with self._lock, _explained(self._repository, self._size, self._descriptor):
            os.fsync(self._descriptor)
        keys = self._repository.keys
        with _explained(self._repository, self._size):
            # The label: its temporary name means nothing to a client.
            opened = npk.open(
                self._temporary,
                None if keys is None else keys.install,
                label=UNNAMED_PACKAGE,
            )
        try:
            return Package(opened, self._repository.free_path(opened.container))
        except BaseException:
            opened.close()
            raise

    def _rename(self, path: str) -> None:
        with _explained(self._repository, self._size), self._repository.synced():
            # Check immediately before the rename, which replaces a file of another program.
            if not self._repository.may_replace(path):
                raise HostError(
                    f"{path} exists, and is no package of the repository",
                    hint="move it away, and install again",
                )
            os.rename(self._temporary, path)
            # `discard` removes this file if the fsync(2) fails.
            self._temporary = path
        self._temporary = ""

    async def discard(self) -> None:
        if self._descriptor >= 0:
            await self._repository.storage.run(self._discard)

    def _discard(self) -> None:
        with self._lock:
            if self._descriptor < 0:
                return
            try:
                if self._temporary:
                    unlink_same(self._temporary, self._descriptor)
            finally:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)


@contextlib.contextmanager
def _explained(repository: FsRepository, size: int, descriptor: int = -1) -> Iterator[None]:
    """Raise an OSError within the block as a HostError that names the repository and a next step.

    Args:
        repository: the repository whose directory is written.
        size: of the package, in bytes.
        descriptor: its temporary file, which counts as free space; -1 if there is none.
    """
    try:
        yield
    except OSError as error:
        what, hint = _storage_problem(repository.directory, error, size, descriptor)
        raise HostError(f"repository {repository.identifier} {what}", hint=hint) from error


def _storage_problem(
    directory: str, error: OSError, size: int, descriptor: int
) -> tuple[str, str | None]:
    """Return what is wrong with a directory to which a package cannot be written; the next step."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"is full: {_room(directory, error, size, descriptor)}", (
                f"uninstall something or make room on the file system of {directory}"
            )
        case errno.EROFS:
            return f"cannot store it: the file system of {directory} is read-only", (
                "mount it read-write, or choose another repository"
            )
        case errno.ENOENT | errno.ENOTDIR:
            return f"cannot store it: the directory {directory} is not there any more", (
                "make it again, and restart the runtime"
            )
    reason = error.strerror or str(error)
    return f"cannot store it in {directory}: {reason}", "check the disk and its file system"


def _room(directory: str, error: OSError, size: int, descriptor: int) -> str:
    needed = f"{describe_size(size)} needed" if size else "no space is left"
    try:
        free = os.statvfs(directory)
        if error.errno == errno.EDQUOT:
            return f"{needed}, and its quota is used up"
        if not free.f_favail and free.f_files:
            return f"{needed}, and its file system has no inode left"
        written = 512 * os.fstat(descriptor).st_blocks if descriptor >= 0 else 0
        return f"{needed}, {describe_size(free.f_bavail * free.f_frsize + written)} free"
    except OSError:
        return needed


def is_same(path: str, descriptor: int) -> bool:
    """Return whether the file at `path`, after symbolic links, is this open file.

    While it is open, its inode number is not reused.

    Raises:
        OSError: the path cannot be examined.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError as failure:
        if failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def unlink_same(path: str, descriptor: int) -> bool:
    """Unlink `path` if it is this open file; return whether it was.

    Linux has no call that unlinks an open file by its descriptor. If another program puts a file at
    the path between the comparison and unlink(2), which are consecutive system calls, that file is
    removed. (Renaming the file to a private name first would close this gap, but needs space for
    one more name: removing a package must work on a full disk.)

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
    """Identity of a file, and the time of its last change."""

    device: int
    inode: int
    changed_ns: int


def _file_state(path: str) -> _FileState:
    status = os.lstat(path)
    return _FileState(status.st_dev, status.st_ino, status.st_ctime_ns)


def _is_partial(path: str) -> bool:
    """Return whether a file belongs to an interrupted install."""
    name = os.path.basename(path)
    if not _OLDER_PARTIAL.match(name):
        return _IS_PARTIAL.match(name) is not None
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _ZIP_END_SPAN))
            return _ZIP_END not in file.read()
    except OSError:
        return False


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
