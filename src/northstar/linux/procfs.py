"""Processes and drivers in /proc: proc(5)."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

MISC_MAJOR: Final = 10
"""Major number of the drivers in /proc/misc: MISC_MAJOR of include/uapi/linux/major.h."""

_STATE: Final = 0
_PPID: Final = 1
_PGRP: Final = 2
"""Positions of the fields of /proc/PID/stat after the command's name, which ends with `)`."""


def process_group(group: int) -> dict[int, str]:
    """Return the members of a process group: pid and state (`R`, `S`, `T`...).

    This reads /proc once. Processes start and end meanwhile: a new member may be missing, and a
    listed one may have ended.
    """
    return {
        pid: fields[_STATE].decode() for pid, fields in _processes() if int(fields[_PGRP]) == group
    }


def children(parent: int) -> list[int]:
    """Return the children of a process, as `process_group` does."""
    return [pid for pid, fields in _processes() if int(fields[_PPID]) == parent]


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(ProcessLookupError):
                yield int(name), _stat(name)


def group_of(pid: int) -> int:
    """Return the process group of a process, also of a zombie.

    Raises:
        ProcessLookupError: the process does not exist.
    """
    return int(_stat(str(pid))[_PGRP])


def parent_of(pid: int) -> int:
    """Return the parent of a process, also of a zombie; 0 if it has none.

    Raises:
        ProcessLookupError: the process does not exist.
    """
    return int(_stat(str(pid))[_PPID])


def _stat(pid: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), pid) from None


def misc() -> dict[str, int]:
    """Return the minor numbers of the drivers with major number 10, by name: /proc/misc.

    Raises:
        OSError: the file cannot be read.
    """
    with open("/proc/misc", encoding="ascii") as file:
        lines = (line.split() for line in file)
        return {name: int(minor) for minor, name in lines}
