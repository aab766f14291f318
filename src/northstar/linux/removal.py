"""Removal of directory trees that other programs made: any depth, any width, any mode.

This is policy above unlinkat(2) and openat(2). It is in this package because `npk` and `runtime`
both use it, and all other packages that `npk` may import (`model`, `schema`, `manifest`) are pure.

The facts behind the algorithm (path_resolution(7)):

- A path may be longer than PATH_MAX, since mkdirat(2) takes relative ones. So each call uses a
  name relative to a descriptor, and each step goes one level down or (`..`) one level up.
- A recursive function would raise RecursionError, and a descriptor per level would cause EMFILE. So
  the levels are in a list, and at most four descriptors are open.
- Each level costs memory. So a directory below `_LEVELS_MAX` levels is moved to the top of the
  tree, where the file system allows that (not between quota projects, nor from a lower layer of
  overlayfs).
- rmdir(2) of a mount point fails with EBUSY even if the mounted directory is not empty. So rmdir(2)
  is tried first on each directory, and a directory is entered only if that fails because it is not
  empty: mount points are never entered.
- Symbolic links are never followed: directories are opened with O_NOFOLLOW.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from typing import Final, NamedTuple

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_EMPTY: Final = frozenset((errno.ENOTEMPTY, errno.EEXIST))
"""Errors of rmdir(2) for a directory that is not empty."""

_LEVELS_MAX: Final = 1000
_BATCH: Final = 64
"""Maximum of names of subdirectories that are kept per level. Another scan finds the others."""

_FAILURES_MAX: Final = 1000
"""Maximum of names that are kept because they cannot be removed. The removal ends there."""


class _Level(NamedTuple):
    """An open directory, or one above it.

    Attributes:
        identity: device and inode, to check that `..` leads back to it.
        pending: subdirectories to enter; the last one is next, or is being emptied.
        failed: names of entries that cannot be removed.
    """

    identity: tuple[int, int]
    pending: list[str]
    failed: set[str]


def remove(path: str, stop: threading.Event | None = None) -> None:
    """Remove a directory and all that is below it.

    Entries that cannot be removed (a mount point, an immutable file) stay, with the directories
    above them; all others are removed. Directories without permissions for their owner get them.

    Args:
        path: of the directory. No other program may change the tree meanwhile.
        stop: ends the removal when it is set.

    Raises:
        OSError: ENOENT; ENOTDIR if `path` is not a directory (a symbolic link is not one); the
            reason of the first entry that stays; ECANCELED after `stop`.
    """
    empty(path, stop)
    os.rmdir(path)


def empty(path: str, stop: threading.Event | None = None) -> None:
    """Remove all that is below a directory, as `remove` does, and keep the directory itself."""
    try:
        top = _open(path, None)
    except OSError as failure:
        # With O_NOFOLLOW a symbolic link is ELOOP, with O_DIRECTORY in addition it is ENOTDIR.
        raise OSError(failure.errno, failure.strerror, path) from None
    try:
        _Removal(path, top, stop).run()
    finally:
        os.close(top)


class _Removal:
    def __init__(self, path: str, top: int, stop: threading.Event | None) -> None:
        self._path = path
        self._top = top
        self._stop = stop
        self._failure: OSError | None = None
        self._failures = 0
        self._removed = 0
        self._repeated = -1

    def run(self) -> None:
        """Empty the directory `top`.

        Raises:
            OSError: the first failure, or one that ends the removal.
        """
        current = os.open(".", _FLAGS, dir_fd=self._top)
        try:
            levels = [_Level(_identity(current), [], set())]
            while True:
                level = levels[-1]
                before = self._removed
                if not level.pending:
                    self._scan(current, level)
                if level.pending:
                    child = self._enter(current, level, len(levels))
                    if child is not None:
                        os.close(current)
                        current = child
                        levels.append(_Level(_identity(current), [], set()))
                elif len(levels) > 1:
                    levels.pop()
                    above = self._above(current, levels[-1])
                    os.close(current)
                    current = above
                    self._leave(current, levels[-1], whole=not level.failed)
                elif self._removed == before:
                    break
        finally:
            os.close(current)
        if self._failure is not None:
            raise self._failure

    def _scan(self, current: int, level: _Level) -> None:
        """Remove files and empty directories; add other directories to `pending`, up to _BATCH."""
        with os.scandir(current) as entries:
            for entry in entries:
                self._check_stop()
                if entry.name in level.failed:
                    continue
                try:
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=current)
                        self._removed += 1
                    elif _remove_directory(entry.name, current):
                        self._removed += 1
                    else:
                        level.pending.append(entry.name)
                except FileNotFoundError:
                    continue
                except OSError as failure:
                    self._note(current, level, entry.name, failure)
                if len(level.pending) >= _BATCH:
                    return

    def _enter(self, current: int, level: _Level, depth: int) -> int | None:
        """Open the next subdirectory; None if that fails, or if it was moved to the top."""
        name = level.pending[-1]
        if depth >= _LEVELS_MAX and self._move_to_top(name, current):
            level.pending.pop()
            return None
        try:
            return _open(name, current)
        except OSError as failure:
            level.pending.pop()
            self._note(current, level, name, failure)
            return None

    def _move_to_top(self, name: str, current: int) -> bool:
        try:
            new = f".{os.urandom(8).hex()}"
            os.rename(name, new, src_dir_fd=current, dst_dir_fd=self._top)
        except OSError:
            return False
        return True

    def _above(self, current: int, level: _Level) -> int:
        above = os.open("..", _FLAGS, dir_fd=current)
        if _identity(above) != level.identity:
            os.close(above)
            raise OSError(errno.ESTALE, "another program changed the tree meanwhile", self._path)
        return above

    def _leave(self, current: int, level: _Level, *, whole: bool) -> None:
        """Remove the subdirectory that was emptied; `whole`: no entry in it failed."""
        name = level.pending.pop()
        try:
            if _remove_directory(name, current):
                self._removed += 1
            elif not whole:
                level.failed.add(name)  # the failure of an entry in it is noted already
            elif self._repeated != self._removed:
                # POSIX does not guarantee that readdir(3) returns all names while some are removed.
                self._repeated = self._removed
                level.pending.append(name)
            else:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        except OSError as failure:
            self._note(current, level, name, failure)

    def _note(self, current: int, level: _Level, name: str, failure: OSError) -> None:
        level.failed.add(name)
        self._failures += 1
        if self._failure is None:
            path = _path_of(current, self._path)
            self._failure = OSError(failure.errno, failure.strerror, os.path.join(path, name))
        if self._failures >= _FAILURES_MAX:
            raise self._failure

    def _check_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise OSError(errno.ECANCELED, "stopped before the whole tree was removed", self._path)


def _open(name: str, directory: int | None) -> int:
    """Open a directory, never through a link, and give its owner all permissions.

    A process with CAP_DAC_OVERRIDE would not need them, but root can run without it.
    """
    try:
        fd = os.open(name, _FLAGS, dir_fd=directory)
    except PermissionError:
        _allow(name, directory)
        fd = os.open(name, _FLAGS, dir_fd=directory)
    mode = os.fstat(fd).st_mode
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        with contextlib.suppress(OSError):  # of another owner: the next calls report a failure
            os.fchmod(fd, stat.S_IMODE(mode) | stat.S_IRWXU)
    return fd


def _allow(name: str, directory: int | None) -> None:
    # fchmod(2) refuses an O_PATH descriptor, and chmod(2) of `name` would follow a link.
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.chmod(f"/proc/self/fd/{fd}", mode | stat.S_IRWXU)
    finally:
        os.close(fd)


def _remove_directory(name: str, directory: int) -> bool:
    """Remove a directory if it is empty; return False if it is not."""
    try:
        os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError as failure:
        if failure.errno in _NOT_EMPTY:
            return False
        raise
    return True


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _path_of(fd: int, otherwise: str) -> str:
    """Return the path of an open directory for a message; `otherwise` if it is too long."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return otherwise
