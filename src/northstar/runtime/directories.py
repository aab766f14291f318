"""The runtime's directories and its cgroup: made, tried, and ours alone while we run.

Two runtimes in one directory would take each other's half-received packages, mount points and
sockets for what a dead one has left, and in one cgroup each other's containers. So each directory
is locked: flock(2) on the directory itself, which leaves no file and ends with the process, however
that ends.
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
from northstar.linux import flock
from northstar.model import ConfigurationError
from northstar.model.deadline import Deadline
from northstar.runtime.config import Config

log = logging.getLogger("northstar.runtime")

_MODES: Final = {"run_dir": 0o755, "data_dir": 0o700, "socket_dir": 0o755}
"""What they get where we make them, whatever the umask is.

Containers of all users must come through to their sockets. Nobody must come through to their data:
the owner of a persistent directory may open it to everybody, and with CAP_SETUID or CAP_CHOWN leave
a set-user-id program of root there, for any user of the host.
"""

OWN: Final = tuple(_MODES)
"""The directories that every runtime has, by their keys in the configuration."""

Stack = contextlib.ExitStack | contextlib.AsyncExitStack

_DYING: Final = 0.25
"""How long, in seconds, a runtime that was killed may take to be gone, with its locks."""
_PAUSE: Final = 0.01


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
    """Make a directory and those above it. os.makedirs calls itself for each of them."""
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
    """A directory of ours that is locked, and its path, where another one may be by now.

    Attributes:
        key: what it is called in an error, as `run_dir`.
        path: absolute, without symbolic links, unless it is that of a repository.
    """

    def __init__(self, key: str, path: str, make: Callable[[], object] | None = None) -> None:
        """Describe it; `lock` locks it.

        Args:
            key: what it is called.
            path: where it is.
            make: makes it anew when it was removed.
        """
        self.key = key
        self.path = path
        self._make = make
        self._descriptor = -1
        self._twin: LockedDirectory | None = None
        # Two threads that both make it anew would take each other's lock for another runtime's.
        self._restoring = threading.Lock()

    def share(self, twin: LockedDirectory) -> bool:
        """Have no lock of our own if `twin`, which has one, is the same directory; tell whether.

        To flock(2) a second lock of this process is somebody else's.

        Raises:
            OSError: there is no directory.
        """
        same = os.path.samestat(os.fstat(twin.fileno()), os.stat(self.path))
        self._twin = twin if same else None
        return same

    def lock(self, deadline: Deadline | None = None) -> None:
        """Lock the directory that is at the path now, instead of an earlier one.

        What is on a read-only file system can be shared: nobody changes anything there.

        Args:
            deadline: until which another runtime may end; none waits for no other runtime.

        Raises:
            ConfigurationError: another runtime uses it; with its pid, where that can be known.
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

    def release(self) -> None:
        """Unlock it; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """Return the descriptor of the locked directory; negative if none is locked."""
        return self._twin.fileno() if self._twin is not None else self._descriptor

    def keep(self) -> None:
        """Stay locked until this process is gone, whatever is released."""
        # The lock is that of the open file, which ends with its last descriptor.
        os.dup(self.fileno())

    def is_current(self) -> bool:
        """Tell whether the locked directory is the one at the path.

        Raises:
            OSError: there is none.
        """
        return os.path.samestat(os.stat(self.path), os.fstat(self.fileno()))

    def refuse_if_moved(self) -> None:
        """Refuse what needs the directory while it is elsewhere: with all that we have in it.

        One that was removed had nothing in it, apart from what was removed as well.

        Raises:
            OSError: ENOENT, with the path.
        """
        try:
            os.stat(self.path)
        except FileNotFoundError:
            if not self._is_removed():
                raise

    def restore(self) -> None:
        """Make and lock the directory anew, if another program has removed it.

        A program that cleans a directory of temporary files removes what is empty, and from
        outside of our mount namespace a `run_dir` looks so. Costs one stat(2).

        Raises:
            OSError: ENOENT with the path: it was moved away, and with it all that we have in it;
                or it cannot be made.
            NorthstarError: it cannot be made, or another runtime has it now.
        """
        if self._twin is not None:
            self._twin.restore()
            return
        with self._restoring:
            self._restore()

    def _restore(self) -> None:
        try:
            if self.is_current():
                return
        except FileNotFoundError:
            if not self._is_removed() or self._make is None:
                raise
            self._make()
            log.warning("Made the %s %s anew: another program has removed it", self.key, self.path)
        else:
            log.warning("The %s %s is another directory than before", self.key, self.path)
        self.lock()

    def _is_removed(self) -> bool:
        # proc_pid_fd(5). One that was renamed has its new path there. (The number of links is of no
        # use: overlayfs and btrfs do not count those of directories.)
        return os.readlink(f"/proc/self/fd/{self.fileno()}") == f"{self.path} (deleted)"


class RuntimeDirectories(NamedTuple):
    """The directories that every runtime has."""

    run_dir: LockedDirectory
    data_dir: LockedDirectory
    socket_dir: LockedDirectory


def own(config: Config, stack: Stack) -> RuntimeDirectories:
    """Make what is missing of our own directories, and lock them until `stack` unwinds.

    Args:
        config: with absolute paths.
        stack: ends the locks.

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
        ConfigurationError: another runtime uses one; with its pid, where that can be known.
        OSError: one cannot be opened.
    """
    deadline = Deadline(_DYING)
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
            time.sleep(_PAUSE)
            continue
        pid = flock.holder(descriptor)
        who = f"another runtime (pid {pid})" if pid is not None else "another runtime"
        raise ConfigurationError(
            f"{who} uses the {key} {path}", hint="shut it down, or configure another one"
        )


class ClaimedCgroup(NamedTuple):
    """The runtime's own cgroup.

    Attributes:
        directories: in each hierarchy.
        warnings: what could not be had.
    """

    directories: tuple[LockedDirectory, ...]
    warnings: list[str]


def claim_cgroup(host: CgroupHost, top: str, stack: Stack) -> ClaimedCgroup:
    """Make the runtime's own cgroup, and lock it.

    When `stack` unwinds it is removed. What cannot be removed then is a warning: it is the next
    runtime's to remove.

    Raises:
        ConfigurationError: another runtime uses it.
        OSError: a directory cannot be made.
    """
    make = functools.partial(host.create_runtime_cgroup, top)
    directories = tuple(
        LockedDirectory("cgroup", f"{h.path}/{top}", make) for h in host.hierarchies
    )
    while True:
        warnings = host.create_runtime_cgroup(top)
        with contextlib.ExitStack() as held, contextlib.suppress(FileNotFoundError):
            lock(directories, held)
            # Whoever had it may have removed it while we waited: then ours is a lock on nothing.
            if all(directory.is_current() for directory in directories):
                stack.callback(held.pop_all().close)
                stack.callback(_remove_cgroup, host, top)
                return ClaimedCgroup(directories, warnings)


def _remove_cgroup(host: CgroupHost, top: str) -> None:
    try:
        host.remove_runtime_cgroup(top)
    except OSError as failure:
        log.warning("Cannot remove the cgroup %s: %s", top, failure)
