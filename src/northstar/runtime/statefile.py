"""The state file: what the runtime itself remembers over a reboot, besides packages and data.

It is one file, so that values that must change together change in one rename(2).

An update writes it several times, and must not meet a full disk between two of them. So `reserve`
allocates the blocks of the next file, `state.json.part`, before the update begins. `write` then
exchanges the two names instead of replacing one, so the blocks of the former file are those of the
next one. A reserved file is never made shorter, which would free blocks: it ends with white space.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Mapping
from typing import Final

import msgspec

from northstar.core.update_values import Phase, Record
from northstar.linux.descriptor import Descriptor
from northstar.linux.fallocate import FALLOC_FL_KEEP_SIZE, fallocate
from northstar.linux.renameat2 import RENAME_EXCHANGE, renameat2
from northstar.manifest import DataPolicy
from northstar.model import Container, InvalidValueError, Name, Version, sentence

log = logging.getLogger("northstar.runtime")

DIRECTORY: Final = ".northstar-state:"
"""Its directory in `data_dir`. No container has this name: the part after the colon is empty."""

FORMAT: Final = 1

_NAME: Final = "state.json"
_BAD: Final = "state.json.bad"
_PARTIAL: Final = "state.json.part"
_ROOM: Final = 64 * 2**10
"""Bytes by which the file can grow in its reserved blocks: hundreds of updates."""
_SIZE_MAX: Final = 16 * 2**20
"""Largest file that is read, in bytes: a thousand key lists."""

_CANNOT_ALLOCATE: Final = frozenset((errno.EOPNOTSUPP, errno.ENOSYS))
_CANNOT_EXCHANGE: Final = frozenset((errno.EINVAL, errno.ENOSYS, errno.ENOENT))
"""Errors of renameat2(2) without the flag, without the call, or without the present file."""


class StoredUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An update in progress, as `core.update_values.Record`; containers are `name:version`."""

    repository: str
    old: str
    new: str
    data: DataPolicy
    phase: Phase
    tries: int = 0
    reason: str = ""

    @classmethod
    def of(cls, record: Record) -> StoredUpdate:
        """Return a record as it is stored."""
        return cls(
            repository=record.repository,
            old=str(record.old),
            new=str(record.new),
            data=record.data,
            phase=record.phase,
            tries=record.tries,
            reason=record.reason,
        )

    def record(self) -> Record:
        """Return the record.

        Raises:
            InvalidValueError: a container is malformed, or its name differs from the other's.
        """
        old, new = Container.parse(self.old), Container.parse(self.new)
        if old.name != new.name:
            raise InvalidValueError(f"an update of {old} to {new}")
        return Record(self.repository, old, new, self.data, self.phase, self.tries, self.reason)


class StoredState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The contents of the file.

    Attributes:
        format: `FORMAT`.
        updates: updates in progress, by the container's name.
        floors: the newest version that was ever committed, by the container's name.
        keys: the key lists that were accepted after the anchor, in order, by repository.
    """

    format: int = FORMAT
    updates: Mapping[str, StoredUpdate] = {}
    floors: Mapping[str, str] = {}
    keys: Mapping[str, tuple[str, ...]] = {}

    def records(self) -> dict[Name, Record]:
        """Return the updates in progress.

        Raises:
            InvalidValueError: one is malformed.
        """
        records = {Name(name): update.record() for name, update in self.updates.items()}
        for name, record in records.items():
            if record.new.name != name:
                raise InvalidValueError(f"an update of {record.new} under the name {name}")
        return records

    def floor_versions(self) -> dict[Name, Version]:
        """Return the floors.

        Raises:
            InvalidValueError: one is malformed.
        """
        return {Name(name): Version.parse(text) for name, text in self.floors.items()}


_decoder: Final = msgspec.json.Decoder(StoredState)


class StateFile:
    """The file, and its contents. All methods block, and one object is used at a time.

    A `write` of another object would free what this one has reserved.
    """

    def __init__(self, data_dir: str) -> None:
        """Use `data_dir/.northstar-state:/state.json`, which need not exist."""
        self._data_dir = data_dir
        self._directory = os.path.join(data_dir, DIRECTORY)
        self.path = os.path.join(self._directory, _NAME)
        self._reserved = False
        self.lost = False
        """Whether `read` found a file that cannot be used."""

    def read(self) -> StoredState:
        """Return its contents; without a file, and after a failure, the empty state.

        A file that cannot be used is renamed and logged: the device boots without it.
        """
        try:
            content = _read(self.path)
            state = _decoder.decode(content)
            if state.format != FORMAT:
                raise ValueError(f"its format is {state.format}, and not {FORMAT}")
            # The file is used as a whole, or not at all.
            state.records()
            state.floor_versions()
        except FileNotFoundError:
            return StoredState()
        except (OSError, ValueError, InvalidValueError) as failure:  # DecodeError is a ValueError
            self.lost = True
            log.error("Cannot use the state file, going on without it: %s", _reason(failure))
            bad = os.path.join(self._directory, _BAD)
            try:
                os.rename(self.path, bad)
            except OSError as renaming:
                log.error("Cannot rename it: %s", renaming)
            else:
                log.error("It is kept as %s", bad)
            return StoredState()
        return state

    def write(self, state: StoredState) -> None:
        """Replace its contents durably.

        Raises:
            OSError: they could not be written. The file has its former contents; if the failure is
                of the last fsync(2), a power cut decides between former and new contents.
        """
        content = msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n"
        self._make_directory()
        with _opened(self._directory) as directory:
            where = directory.fd
            try:
                if self._reserved:
                    _write_part(where, content, keep=True)
                    self._exchange(where)
                else:
                    _write_part(where, content, keep=False)
                    os.rename(_PARTIAL, _NAME, src_dir_fd=where, dst_dir_fd=where)
            except OSError as failure:
                if not self._reserved:
                    with contextlib.suppress(OSError):
                        os.unlink(_PARTIAL, dir_fd=where)
                raise OSError(failure.errno, failure.strerror, self.path) from failure
            os.fsync(where)

    def reserve(self) -> None:
        """Allocate the blocks of the next files, until `release`: a full disk refuses no `write`.

        It holds for contents that are at most 64 KiB larger than the present ones. On a file system
        that copies on write (btrfs), a full disk may refuse a `write` nevertheless. What an earlier
        run has reserved is used again, so this succeeds on a full disk after a power cut too.

        Raises:
            OSError: ENOSPC, EDQUOT: there is no room; EIO and others. Nothing is reserved, and the
                contents are the former ones.
        """
        self._make_directory()
        with _opened(self._directory) as directory:
            where = directory.fd
            try:
                content = _read(self.path)
            except FileNotFoundError:
                self.write(StoredState())
                content = _read(self.path)
            size = len(content.rstrip()) + _ROOM
            try:
                # Also those of the present file: the first exchange makes it the next one.
                if not (_allocated(_PARTIAL, where, size) and _allocated(_NAME, where, size)):
                    # Without fallocate(2) only written blocks are allocated.
                    _write_part(where, content.ljust(size), keep=True)
                    self._exchange(where)
                    _write_part(where, content.ljust(size), keep=True)
                os.fsync(where)
            except OSError as failure:
                if not self._reserved:
                    self._free(where)
                raise OSError(failure.errno, failure.strerror, self.path) from failure
        self._reserved = True

    def release(self) -> None:
        """Free the reserved blocks, also those of an earlier run; idempotent.

        Raises:
            OSError: the directory cannot be opened. A failure to free something is none: the next
                `write` replaces the file.
        """
        self._reserved = False
        try:
            directory = _opened(self._directory)
        except FileNotFoundError:
            return
        with directory:
            self._free(directory.fd)

    def release_left(self) -> None:
        """Free the blocks that a killed runtime has reserved, if it has. Otherwise write nothing.

        Raises:
            OSError: as `release`.
        """
        if os.path.lexists(os.path.join(self._directory, _PARTIAL)):
            self.release()

    def _free(self, where: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(_PARTIAL, dir_fd=where)
        with contextlib.suppress(OSError):
            # The blocks behind the end, that FALLOC_FL_KEEP_SIZE allocated.
            os.truncate(self.path, os.stat(self.path).st_size)

    def _make_directory(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
            with _opened(self._data_dir) as parent:
                os.fsync(parent.fd)

    def _exchange(self, where: int) -> None:
        """Exchange the names of the present and the next file."""
        try:
            renameat2(where, _PARTIAL, where, _NAME, RENAME_EXCHANGE)
        except OSError as failure:
            if failure.errno not in _CANNOT_EXCHANGE:
                raise
            os.rename(_PARTIAL, _NAME, src_dir_fd=where, dst_dir_fd=where)
            size = os.stat(_NAME, dir_fd=where).st_size + _ROOM
            try:
                if not _allocated(_PARTIAL, where, size):
                    _write_part(where, b" " * size, keep=True)
            except OSError as reason:
                log.warning("Cannot reserve blocks for the next state file: %s", reason)


def _opened(directory: str) -> Descriptor:
    return Descriptor(
        os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    )


def _write_part(where: int, content: bytes, *, keep: bool) -> None:
    """Write the next file, in its present blocks with `keep`: it is not made shorter then."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(_PARTIAL, flags if keep else flags | os.O_TRUNC, 0o600, dir_fd=where)
    with open(descriptor, "wb") as file:
        file.write(content.ljust(os.fstat(descriptor).st_size))
        file.flush()
        os.fsync(descriptor)


def _allocated(name: str, where: int, size: int) -> bool:
    """Allocate blocks of a file durably; return False if the file system cannot do it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with Descriptor(os.open(name, flags, 0o600, dir_fd=where)) as file:
        try:
            fallocate(file.fd, FALLOC_FL_KEEP_SIZE, 0, size)
        except OSError as failure:
            if failure.errno not in _CANNOT_ALLOCATE:
                raise
            return False
        os.fsync(file.fd)
    return True


def _read(path: str) -> bytes:
    # O_NONBLOCK: opening a FIFO must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        content = file.read(_SIZE_MAX + 1)
    if len(content) > _SIZE_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content


def _reason(failure: Exception) -> str:
    return sentence(failure) if isinstance(failure, OSError) else f"{_NAME}: {failure}"
