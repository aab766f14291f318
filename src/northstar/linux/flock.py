"""Locks on open files, flock(2), and who holds them: /proc/locks (proc_locks(5)).

Such a lock needs no file of its own, a directory will do, and it ends with its holder however that
ends: nothing is left that could be out of date.
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
_HELD: Final = re.compile(r"\d+: FLOCK +\S+ +\S+ (\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file or directory without waiting; tell whether it was to be had.

    Args:
        fd: what to lock. The lock ends when its last copy is closed.
        shared: with others who lock it so.

    Raises:
        OSError: ENOLCK, EOPNOTSUPP: this file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(fd: int) -> int | None:
    """Return the pid of a process that has locked this file, by whatever descriptor.

    None where nobody has, or where it cannot be seen from here: in another PID namespace, or on a
    file system that gives its files other numbers than the kernel has (btrfs).

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
        if match := _HELD.match(line):
            pid, major, minor, inode = match.groups()
            found.append((int(pid), (int(major, 16), int(minor, 16), int(inode))))
    return found
