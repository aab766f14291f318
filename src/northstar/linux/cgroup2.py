"""Control groups version 2: Documentation/admin-guide/cgroup-v2.rst."""

from __future__ import annotations

import os
from collections.abc import Iterable

from northstar.linux.cgroupfs import read, write


def controllers(directory: str) -> frozenset[str]:
    """Return the controllers that a cgroup has (`cgroup.controllers`).

    Raises:
        OSError: it is no cgroup, or was removed.
    """
    return frozenset(read(f"{directory}/cgroup.controllers").split())


def subtree_control(directory: str) -> frozenset[str]:
    """Return the controllers that are enabled for the children of a cgroup."""
    return frozenset(read(f"{directory}/cgroup.subtree_control").split())


def enable(directory: str, names: Iterable[str]) -> None:
    """Enable controllers for the children of a cgroup; all or none.

    Raises:
        OSError: ENOENT if the cgroup itself lacks one, EBUSY if it directly contains processes
            and is not the root.
    """
    write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))


def kill(directory: str) -> None:
    """Kill every process in a cgroup and below it, also children that are forked meanwhile.

    Raises:
        OSError: ENOENT before Linux 5.14, and in the root.
    """
    write(f"{directory}/cgroup.kill", "1")


def open_procs(directory: str) -> int:
    """Open `cgroup.procs` for writing, for a process that moves itself: it writes `0`.

    The kernel checks the permission of the process that opened the file (Linux 5.16).

    Raises:
        OSError: the cgroup was removed.
    """
    return os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def open_directory(directory: str) -> int:
    """Open a cgroup for CLONE_INTO_CGROUP of clone3(2); close-on-exec. The caller owns it."""
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
