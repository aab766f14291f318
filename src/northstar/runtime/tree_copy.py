"""Copies of directory trees that containers made: any depth, any width, any kind of file.

A copy is equal to its original in contents, owners, modes, times, extended attributes (ACLs are
such), holes and hard links; only sockets are left out. The original is not changed.

The facts behind it:

- A path may be longer than PATH_MAX, so each call uses a name relative to a descriptor, and each
  step goes one level down or (`..`) one level up, in both trees; see `northstar.linux.removal`.
  At most `DESCRIPTORS` are open.
- The first name of a file with several links gets a further link, named after the inode, in a
  directory of its own. The next name is linked to that one. So the memory does not grow with the
  number of links, and no path to the first name is needed, which may be too long.
- chown(2) removes set-user-id bits and capabilities, so the mode and the extended attributes come
  after it. Each new entry changes the times of its directory, so these are set when it is left.
- No other program may change the trees meanwhile. A link is never followed nevertheless.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from northstar.linux import fileclone

DESCRIPTORS: Final = 8
"""Most descriptors that are open at a time, those of the caller included."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO in place of the file must not block.
_SOURCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TARGET: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_SECTOR: Final = 512
"""Unit of `st_blocks`, whatever the block size of the file system is: stat(2)."""

_CHUNK: Final = 4 * 2**20
"""Bytes that are copied by one call. Between two calls the copy can be stopped."""

_NEVER_CLONED: Final = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS))
_NOT_CLONED: Final = _NEVER_CLONED | {errno.EINVAL, errno.EXDEV, errno.ETXTBSY, errno.EPERM}
"""Errors of FICLONE after which the bytes are copied: of any file, or of this one."""

_NO_RANGE: Final = frozenset(
    (errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.ETXTBSY, errno.EPERM)
)
"""Errors of copy_file_range(2) after which the bytes are read and written."""


class Extent(NamedTuple):
    """What a copy of a tree takes at most.

    Attributes:
        bytes: the allocated blocks, in bytes.
        inodes: files, directories included.
    """

    bytes: int
    inodes: int


def measure(path: str, stop: threading.Event | None = None) -> Extent:
    """Return what a copy of a tree takes on the same file system.

    Args:
        path: of the directory.
        stop: ends the walk when it is set.

    Raises:
        OSError: as in `copy`.
    """
    visitor = _Measure()
    _Walk(path, stop).run(visitor)
    return visitor.extent


def copy(
    path: str,
    directory: int,
    name: str,
    *,
    links: int,
    sync: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Copy a tree. After a failure there is a part of the copy.

    Args:
        path: of the directory to copy.
        directory: an open directory of the same file system.
        name: of the copy, in `directory`.
        links: another open directory there, empty. Links may remain in it; the caller removes them.
        sync: call fsync(2) for each regular file. Otherwise the caller makes the copy durable.
        stop: ends the copy when it is set.

    Raises:
        OSError: of the first failure, with the path of the original: ENOTDIR, ELOOP if it is not a
            directory; ENOSPC, EDQUOT, EIO; EXDEV for a mount point in the tree; ECANCELED after
            `stop`.
    """
    with contextlib.closing(_Copy(directory, name, links, sync, stop)) as visitor:
        _Walk(path, stop).run(visitor)


class _Visitor(Protocol):
    def enter(self, name: str, status: os.stat_result) -> None:
        """A directory was entered; `name` is empty for the top."""

    def file(self, directory: int, name: str, status: os.stat_result) -> None:
        """An entry of the present directory that is no directory."""

    def leave(self, directory: int, status: os.stat_result) -> None:
        """The present directory is complete; its status is that from before the visit."""


class _Level(NamedTuple):
    """A directory that was entered.

    Attributes:
        status: from before its entries were read, which changes its time of access.
        pending: subdirectories to enter. Each costs an inode of the file system, and 100 bytes
            here.
    """

    status: os.stat_result
    pending: list[str]


class _Walk:
    """Visits a tree; at most three descriptors are open."""

    def __init__(self, path: str, stop: threading.Event | None) -> None:
        self._path = path
        self._stop = stop

    def run(self, visitor: _Visitor) -> None:
        try:
            current = os.open(self._path, _DIRECTORY)
        except OSError as failure:
            raise OSError(failure.errno, failure.strerror, self._path) from None
        try:
            levels = [self._enter(current, "", visitor)]
            while True:
                level = levels[-1]
                if level.pending:
                    name = level.pending.pop()
                    child = self._open(current, name, levels[0].status.st_dev)
                    os.close(current)
                    current = child
                    levels.append(self._enter(current, name, visitor))
                    continue
                with self._located(current):
                    visitor.leave(current, level.status)
                levels.pop()
                if not levels:
                    break
                above = os.open("..", _DIRECTORY, dir_fd=current)
                os.close(current)
                current = above
                if not os.path.samestat(os.fstat(current), levels[-1].status):
                    raise _changed()
        finally:
            os.close(current)

    def _open(self, current: int, name: str, device: int) -> int:
        with self._located(current, name):
            child = os.open(name, _DIRECTORY, dir_fd=current)
            if os.fstat(child).st_dev != device:
                os.close(child)
                raise OSError(errno.EXDEV, "another file system or a subvolume is there")
            return child

    def _enter(self, current: int, name: str, visitor: _Visitor) -> _Level:
        status = os.fstat(current)
        level = _Level(status, [])
        with self._located(current):
            visitor.enter(name, status)
        with self._located(current), os.scandir(current) as entries:
            for entry in entries:
                if self._stop is not None and self._stop.is_set():
                    raise _stopped()
                with self._located(current, entry.name):
                    if entry.is_dir(follow_symlinks=False):
                        level.pending.append(entry.name)
                    else:
                        visitor.file(current, entry.name, entry.stat(follow_symlinks=False))
        return level

    @contextlib.contextmanager
    def _located(self, current: int, name: str = "") -> Iterator[None]:
        """Name the entry in a failure."""
        try:
            yield
        except OSError as failure:
            if isinstance(failure.filename, str) and os.path.isabs(failure.filename):
                raise  # it was named already
            try:
                path = os.readlink(f"/proc/self/fd/{current}")
            except OSError:  # longer than a page
                path = self._path
            path = os.path.join(path, name) if name else path
            raise OSError(failure.errno, failure.strerror, path) from failure


class _Measure:
    """Adds up blocks and inodes.

    A file with several links counts once. To remember each would take memory, so each of its n
    names counts as an n-th part of it. A container has no other name of a file than those in its
    tree.
    """

    def __init__(self) -> None:
        self._inodes: collections.Counter[int] = collections.Counter()
        self._blocks: collections.Counter[int] = collections.Counter()

    @property
    def extent(self) -> Extent:
        def total(counts: collections.Counter[int]) -> int:
            return sum(-(-count // names) for names, count in counts.items())

        return Extent(_SECTOR * total(self._blocks), total(self._inodes))

    def enter(self, _name: str, status: os.stat_result) -> None:
        self._inodes[1] += 1
        self._blocks[1] += status.st_blocks

    def file(self, _directory: int, _name: str, status: os.stat_result) -> None:
        if not stat.S_ISSOCK(status.st_mode):
            self._inodes[status.st_nlink] += 1
            self._blocks[status.st_nlink] += status.st_blocks

    def leave(self, directory: int, status: os.stat_result) -> None:
        pass


class _Copy:
    """Makes the copy of what the walk visits."""

    def __init__(
        self, directory: int, name: str, links: int, sync: bool, stop: threading.Event | None
    ) -> None:
        self._top = name
        self._links = links
        self._sync = sync
        self._stop = stop
        self._can_clone = True
        self._current = os.open(".", _DIRECTORY, dir_fd=directory)
        self._above = [os.fstat(self._current)]

    def close(self) -> None:
        os.close(self._current)

    def enter(self, name: str, _status: os.stat_result) -> None:
        name = name or self._top
        os.mkdir(name, 0o700, dir_fd=self._current)
        self._go(name)
        self._above.append(os.fstat(self._current))

    def leave(self, directory: int, status: os.stat_result) -> None:
        _set_attributes(self._current, directory, status)
        self._above.pop()
        self._go("..")
        if not os.path.samestat(os.fstat(self._current), self._above[-1]):
            raise _changed()

    def _go(self, name: str) -> None:
        following = os.open(name, _DIRECTORY, dir_fd=self._current)
        os.close(self._current)
        self._current = following

    def file(self, directory: int, name: str, status: os.stat_result) -> None:
        if stat.S_ISSOCK(status.st_mode):
            return
        inode = str(status.st_ino)
        if status.st_nlink > 1 and self._link(inode, name, status.st_nlink):
            return
        if stat.S_ISREG(status.st_mode):
            self._regular(directory, name, status)
        else:
            self._special(directory, name, status)
        if status.st_nlink > 1:
            os.link(
                name,
                inode,
                src_dir_fd=self._current,
                dst_dir_fd=self._links,
                follow_symlinks=False,
            )

    def _link(self, inode: str, name: str, number: int) -> bool:
        """Link a further name; return False if it is the first one."""
        try:
            present = os.stat(inode, dir_fd=self._links, follow_symlinks=False).st_nlink
        except FileNotFoundError:
            return False
        where = {"src_dir_fd": self._links, "dst_dir_fd": self._current}
        if present == number:
            # All names but this one are there, and one more link could be too many (EMLINK).
            os.rename(inode, name, **where)
        else:
            os.link(inode, name, **where, follow_symlinks=False)
        return True

    def _special(self, directory: int, name: str, status: os.stat_result) -> None:
        """Copy a symbolic link, a FIFO or a device node, without opening it."""
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=directory), name, dir_fd=self._current)
        else:
            kind = stat.S_IFMT(status.st_mode)
            os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=self._current)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=self._current, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=self._current)
        # These calls have no variant with a descriptor of the directory.
        _copy_xattrs(f"/proc/self/fd/{self._current}/{name}", f"/proc/self/fd/{directory}/{name}")
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=self._current, follow_symlinks=False)

    def _regular(self, directory: int, name: str, status: os.stat_result) -> None:
        source = os.open(name, _SOURCE, dir_fd=directory)
        try:
            if not os.path.samestat(os.fstat(source), status):
                raise _changed()
            target = os.open(name, _TARGET, 0o600, dir_fd=self._current)
            try:
                self._contents(target, source, status.st_size)
                _set_attributes(target, source, status)
                if self._sync:
                    os.fsync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _contents(self, target: int, source: int, size: int) -> None:
        if size == 0 or self._clone(target, source):
            return
        os.ftruncate(target, size)
        offset = 0
        while offset < size:
            try:
                start = os.lseek(source, offset, os.SEEK_DATA)
            except OSError as failure:
                if failure.errno != errno.ENXIO:
                    raise
                break  # the rest is a hole
            offset = min(os.lseek(source, start, os.SEEK_HOLE), size)
            self._range(target, source, start, offset)

    def _clone(self, target: int, source: int) -> bool:
        if not self._can_clone:
            return False
        try:
            fileclone.ficlone(target, source)
        except OSError as failure:
            if failure.errno not in _NOT_CLONED:
                raise
            self._can_clone = failure.errno not in _NEVER_CLONED
            return False
        return True

    def _range(self, target: int, source: int, start: int, end: int) -> None:
        while start < end:
            if self._stop is not None and self._stop.is_set():
                raise _stopped()
            length = min(_CHUNK, end - start)
            try:
                copied = os.copy_file_range(source, target, length, start, start)
            except OSError as failure:
                if failure.errno not in _NO_RANGE:
                    raise
                copied = 0
            # Some file systems return 0 where they cannot copy: copy_file_range(2).
            copied = copied or os.pwrite(target, os.pread(source, length, start), start)
            if not copied:
                raise OSError(errno.EIO, "the file is shorter than its size")
            start += copied


def _set_attributes(target: int, source: int, status: os.stat_result) -> None:
    """Set owner, mode, extended attributes and times of an open file or directory."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    _copy_xattrs(target, source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_xattrs(target: int | str, source: int | str) -> None:
    wanted = _xattrs(source)
    for name in _xattrs(target):
        # An ACL that the directory gave to its new entry. The labels of security modules stay:
        # the kernel gives one to each file.
        if name not in wanted and not name.startswith("security."):
            _by(os.removexattr, target, name)
    for name in wanted:
        _by(os.setxattr, target, name, _by(os.getxattr, source, name))


def _xattrs(file: int | str) -> list[str]:
    try:
        names: list[str] = _by(os.listxattr, file)
    except OSError as failure:
        if failure.errno != errno.EOPNOTSUPP:  # a file system without any
            raise
        return []
    return names


def _by(function: Callable[..., Any], file: int | str, *arguments: Any) -> Any:
    """Call a function of extended attributes, which never follows a link."""
    if isinstance(file, int):
        return function(file, *arguments)
    return function(file, *arguments, follow_symlinks=False)


def _changed() -> OSError:
    return OSError(errno.ESTALE, "another program changed the tree meanwhile")


def _stopped() -> OSError:
    return OSError(errno.ECANCELED, "stopped before the whole tree was copied")
