"""The runtime's directories and its cgroup: created, checked, and locked while it runs.

Of two runtimes in one directory, each would remove the other's half-received packages, mount points
and sockets as stale state, and in one cgroup the other's containers. So each directory is locked
with flock(2). The lock is on the directory itself: it needs no file, and ends with the process.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from northstar.cgroups import CgroupHost
from northstar.linux import flock, statfs
from northstar.model import ConfigurationError, Container, sentence
from northstar.model.deadline import Deadline
from northstar.runtime.config import Config

log = logging.getLogger("northstar.runtime")

_MODES: Final = {"run_dir": 0o755, "data_dir": 0o700, "socket_dir": 0o755}
"""Their modes, independent of the umask.

Containers of all users must reach their sockets. No other user must reach their data: the owner of
a persistent directory may make it accessible to all users, and with CAP_SETUID or CAP_CHOWN store a
set-user-id program of root in it, for any user of the host.
"""

OWN: Final = tuple(_MODES)
"""The keys of the directories that every runtime has."""

Stack = contextlib.ExitStack | contextlib.AsyncExitStack

_LOCK_TIMEOUT: Final = 0.25
"""Seconds to wait for a lock: a runtime that was killed may still be exiting."""
_LOCK_PAUSE: Final = 0.01

NOTIFY: Final = "notify"
"""The directory of all notify sockets in the run directory, see `northstar.runtime.notify`."""


def notify_directory(run_dir: str, container: Container) -> str:
    """Return the path of the directory of a container's notify socket."""
    return os.path.join(run_dir, NOTIFY, str(container))


def _make(key: str, path: str) -> None:
    try:
        if not os.path.isdir(path):
            _make_all(path)
            os.chmod(path, _MODES[key])
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    except OSError as failure:
        raise ConfigurationError(
            f"{key} = {path!r} cannot be used: {failure.strerror}",
            hint="name a directory that can be read and written",
        ) from failure


def _make_all(path: str) -> None:
    """Create a directory and its missing parents. os.makedirs recurses once for each."""
    missing = [path]
    while not os.path.isdir(above := os.path.dirname(missing[-1])):
        missing.append(above)
    for directory in reversed(missing):
        try:
            os.mkdir(directory)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise


class LockedDirectory:
    """A locked directory, and its path, at which another directory may appear later.

    Attributes:
        key: its name in errors, such as `run_dir`.
        path: absolute and without symbolic links, except for a repository.
    """

    def __init__(self, key: str, path: str, make: Callable[[], object] | None = None) -> None:
        """Describe it; `lock` locks it.

        Args:
            key: its name in errors.
            path: its path.
            make: creates it again after it was removed.
        """
        self.key = key
        self.path = path
        self._make = make
        self._descriptor = -1
        self._identity: os.stat_result | None = None
        self._twin: LockedDirectory | None = None
        self._in_memory: bool | None = None
        # If two threads restored it, one would mistake the other's lock for another runtime's.
        self._restoring = threading.Lock()

    def share(self, twin: LockedDirectory) -> bool:
        """Share the lock of `twin` if it is the same directory; return whether it is.

        flock(2) refuses a second lock of the same process too.

        Raises:
            OSError: the directory does not exist.
        """
        same = os.path.samestat(os.fstat(twin.fileno()), os.stat(self.path))
        self._twin = twin if same else None
        return same

    def lock(self, deadline: Deadline | None = None) -> None:
        """Lock the directory that is at the path now, and release an earlier one.

        On a read-only file system the lock is shared: no runtime can change anything there.

        Args:
            deadline: how long to wait for another runtime to end; None does not wait.

        Raises:
            ConfigurationError: another runtime uses it; names its pid if known.
            OSError: it cannot be opened.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            shared = bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
            try:
                _lock(descriptor, self.key, self.path, shared, deadline)
            except OSError as failure:
                if failure.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                log.warning("Cannot lock the %s %s: %s", self.key, self.path, failure.strerror)
        except BaseException:
            os.close(descriptor)
            raise
        self.release()
        self._descriptor = descriptor
        # The open descriptor keeps the inode: its number is not reused.
        self._identity = os.fstat(descriptor)
        self._in_memory = None

    def release(self) -> None:
        """Unlock it; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """Return the descriptor of the locked directory; negative if none is locked."""
        return self._twin.fileno() if self._twin is not None else self._descriptor

    def keep(self) -> None:
        """Stay locked until this process ends, even after `release`."""
        # The lock belongs to the open file description, which ends with its last descriptor.
        os.dup(self.fileno())

    def is_in_memory(self) -> bool:
        """Return whether its file system is in memory, so that no change of it waits for a device.

        rmdir(2) of ext4 takes 0.3 ms, and waits for the journal: seconds, if the disk is slow.
        """
        if self._twin is not None:
            return self._twin.is_in_memory()
        if self._in_memory is None:
            try:
                self._in_memory = statfs.file_system(self.fileno()) in statfs.IN_MEMORY
            except OSError:
                return False
        return self._in_memory

    def is_current(self) -> bool:
        """Return whether the locked directory is the one at the path.

        Raises:
            OSError: the path does not exist.
        """
        if self._twin is not None:
            return self._twin.is_current()
        assert self._identity is not None
        return os.path.samestat(os.stat(self.path), self._identity)

    def refuse_if_moved(self) -> None:
        """Raise if the directory was moved away, with its contents.

        A removed directory is no error: it was empty, or its contents were removed as well.

        Raises:
            OSError: ENOENT, with the path.
        """
        try:
            os.stat(self.path)
        except FileNotFoundError:
            if not self._is_removed():
                raise

    def restore(self) -> bool:
        """Create and lock the directory again if another program has removed it.

        A program that cleans up temporary files removes empty directories, and outside of the
        runtime's mount namespace a `run_dir` looks empty. Costs one stat(2).

        Returns:
            Whether it was removed, or replaced by another directory.

        Raises:
            OSError: ENOENT with the path: it was moved away with its contents; or it cannot be
                created.
            NorthstarError: it cannot be created, or another runtime uses it now.
        """
        if self._twin is not None:
            return self._twin.restore()
        with self._restoring:
            return self._restore()

    def _restore(self) -> bool:
        try:
            if self.is_current():
                return False
        except FileNotFoundError:
            if not self._is_removed() or self._make is None:
                raise
            self._make()
            log.warning("Created the %s %s again: another program removed it", self.key, self.path)
        else:
            log.warning("The %s %s is a different directory than before", self.key, self.path)
        self.lock()
        return True

    def _is_removed(self) -> bool:
        # proc_pid_fd(5). A renamed directory shows its new path. (The link count does not help:
        # overlayfs and btrfs do not count links of directories.)
        return os.readlink(f"/proc/self/fd/{self.fileno()}") == f"{self.path} (deleted)"


class RuntimeDirectories(NamedTuple):
    """The directories that every runtime has."""

    run_dir: LockedDirectory
    data_dir: LockedDirectory
    socket_dir: LockedDirectory


def own(config: Config, stack: Stack) -> RuntimeDirectories:
    """Create the runtime's directories if missing, and lock them until `stack` unwinds.

    Args:
        config: with absolute paths.
        stack: releases the locks.

    Raises:
        ConfigurationError: one cannot be used, or another runtime uses it.
        OSError: one cannot be opened.
    """
    for key in OWN:
        _make(key, getattr(config, key))

    def held(key: str) -> LockedDirectory:
        path: str = getattr(config, key)
        return LockedDirectory(key, path, functools.partial(_make, key, path))

    found = RuntimeDirectories(*map(held, OWN))
    lock(found, stack)
    return found


def lock(directories: Iterable[LockedDirectory], stack: Stack) -> None:
    """Lock directories until `stack` unwinds, or this process ends.

    Raises:
        ConfigurationError: another runtime uses one; names its pid if known.
        OSError: one cannot be opened.
    """
    deadline = Deadline(_LOCK_TIMEOUT)
    locked: list[LockedDirectory] = []
    for directory in directories:
        if any(map(directory.share, locked)):
            continue
        stack.callback(directory.release)
        directory.lock(deadline)
        locked.append(directory)


def _lock(descriptor: int, key: str, path: str, shared: bool, deadline: Deadline | None) -> None:
    while not flock.try_lock(descriptor, shared=shared):
        if deadline is not None and not deadline.passed():
            time.sleep(_LOCK_PAUSE)
            continue
        pid = flock.holder(descriptor)
        holder = f"another runtime (pid {pid})" if pid is not None else "another runtime"
        raise ConfigurationError(
            f"{holder} uses the {key} {path}", hint="shut it down, or configure another one"
        )


class ClaimedCgroup(NamedTuple):
    """The runtime's own cgroup.

    Attributes:
        directories: its directory in each hierarchy.
        warnings: messages about missing controllers.
    """

    directories: tuple[LockedDirectory, ...]
    warnings: list[str]


def claim_cgroup(host: CgroupHost, top: str, stack: Stack) -> ClaimedCgroup:
    """Create the runtime's cgroup, and lock it.

    It is removed when `stack` unwinds. A failure is a warning then: the next runtime removes it.

    Raises:
        ConfigurationError: another runtime uses it.
        OSError: a directory cannot be created.
    """
    make = functools.partial(host.create_runtime_cgroup, top)
    directories = tuple(
        LockedDirectory("cgroup", f"{h.path}/{top}", make) for h in host.hierarchies
    )
    while True:
        warnings = host.create_runtime_cgroup(top)
        with contextlib.ExitStack() as held, contextlib.suppress(FileNotFoundError):
            lock(directories, held)
            # The former owner may have removed it meanwhile: then the locked one is gone.
            if all(directory.is_current() for directory in directories):
                stack.callback(held.pop_all().close)
                stack.callback(_remove_cgroup, host, top)
                return ClaimedCgroup(directories, warnings)


def _remove_cgroup(host: CgroupHost, top: str) -> None:
    try:
        host.remove_runtime_cgroup(top)
    except OSError as failure:
        log.warning("Cannot remove the cgroup %s: %s", top, sentence(failure))
