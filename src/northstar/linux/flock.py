"""Locks on open files, flock(2), and the processes that hold them: /proc/locks (proc_locks(5)).

Such a lock needs no lock file: a directory can be locked. The kernel releases it when its holder
ends, however that happens, so no stale lock remains.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from typing import Final

LOCKS: Final = "/proc/locks"

# 1: FLOCK  ADVISORY  WRITE 715 fe:00:9977863 0 EOF
# The device's numbers are hexadecimal. A waiter's line has an arrow: "1: -> FLOCK".
_HELD: Final = r"\d+: FLOCK +\S+ +\S+ (\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) "


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file or directory without waiting; return False if another holds the lock.

    Args:
        fd: the open file. The lock ends when the last copy of the descriptor is closed.
        shared: take a shared lock (LOCK_SH) instead of an exclusive one.

    Raises:
        OSError: ENOLCK, EOPNOTSUPP: this file system does not support locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(fd: int) -> int | None:
    """Return the pid of a process that has locked this file, through any descriptor.

    None if the file is not locked, or if the holder is not visible: it is in another PID
    namespace, or the file system shows other device numbers than /proc/locks (btrfs).

    Raises:
        OSError: EBADF.
    """
    status = os.fstat(fd)
    wanted = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    with contextlib.suppress(OSError), open(LOCKS, encoding="ascii", errors="replace") as file:
        for pid, identity in parse(file.read()):
            if identity == wanted and pid > 0:
                return pid
    return None


def parse(text: str) -> list[tuple[int, tuple[int, int, int]]]:
    """Return the holders of flock(2) locks: pid, and major, minor and inode of the file."""
    found = []
    for line in text.splitlines():
        if match := re.match(_HELD, line):
            pid, major, minor, inode = match.groups()
            found.append((int(pid), (int(major, 16), int(minor, 16), int(inode))))
    return found
