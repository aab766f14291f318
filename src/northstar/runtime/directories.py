"""The runtime's directories and its cgroup: made, tried, and ours alone while we run.

Two runtimes in one directory would take each other's half-received packages, mount points and
sockets for what a dead one has left, and in one cgroup each other's containers. So each directory
is locked: flock(2) on the directory itself, which leaves no file and ends with the process, however
that ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterable
from typing import Final

from northstar.cgroups import CgroupHost
from northstar.deadline import Deadline
from northstar.linux import flock
from northstar.model import ConfigurationError
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


def make(config: Config) -> None:
    """Make what is missing of our own directories.

    Raises:
        ConfigurationError: one cannot be used.
    """
    for key in OWN:
        _make(key, getattr(config, key))


def _make(key: str, path: str) -> None:
    try:
        if not os.path.isdir(path):
            os.makedirs(path, exist_ok=True)
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


def lock(paths: Iterable[tuple[str, str]], stack: Stack) -> list[int]:
    """Lock directories until `stack` unwinds, or this process ends.

    What is on a read-only file system can be shared: nobody changes anything there.

    Args:
        paths: each with what it is called in the error, as `run_dir`.
        stack: takes the descriptors.

    Returns:
        The descriptors, in the same order.

    Raises:
        ConfigurationError: another runtime uses one; with its pid, where that can be known.
        OSError: one cannot be opened.
    """
    descriptors = []
    locked: set[tuple[int, int]] = set()
    deadline = Deadline(_DYING)
    for key, path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        descriptors.append(descriptor)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) in locked:
            continue  # one directory for two purposes
        locked.add((status.st_dev, status.st_ino))
        shared = bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
        try:
            _lock(descriptor, key, path, shared, deadline)
        except OSError as failure:
            if failure.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            log.warning("Cannot lock the %s %s: %s", key, path, failure.strerror)
    return descriptors


def _lock(descriptor: int, key: str, path: str, shared: bool, deadline: Deadline) -> None:
    while not flock.try_lock(descriptor, shared=shared):
        if not deadline.passed():
            time.sleep(_PAUSE)
            continue
        pid = flock.holder(descriptor)
        who = f"another runtime (pid {pid})" if pid is not None else "another runtime"
        raise ConfigurationError(
            f"{who} uses the {key} {path}", hint="shut it down, or configure another one"
        )


def claim_cgroup(host: CgroupHost, top: str, stack: Stack) -> list[str]:
    """Make the runtime's own cgroup, and lock it; return warnings.

    When `stack` unwinds it is removed. What cannot be removed then is a warning: it is the next
    runtime's to remove.

    Raises:
        ConfigurationError: another runtime uses it.
        OSError: a directory cannot be made.
    """
    paths = [f"{hierarchy.path}/{top}" for hierarchy in host.hierarchies]
    while True:
        warnings = host.make_top(top)
        with contextlib.ExitStack() as held, contextlib.suppress(FileNotFoundError):
            descriptors = lock([("cgroup", path) for path in paths], held)
            # Whoever had it may have removed it while we waited: then ours is a lock on nothing.
            if all(map(_is_still, paths, descriptors)):
                stack.callback(held.pop_all().close)
                stack.callback(_remove_cgroup, host, top)
                return warnings


def _is_still(path: str, descriptor: int) -> bool:
    return os.path.samestat(os.stat(path), os.fstat(descriptor))


def _remove_cgroup(host: CgroupHost, top: str) -> None:
    try:
        host.remove_top(top)
    except OSError as failure:
        log.warning("Cannot remove the cgroup %s: %s", top, failure)
