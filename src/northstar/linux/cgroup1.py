"""Control groups version 1: Documentation/admin-guide/cgroup-v1/.

Each controller may be mounted on its own, or several together in one hierarchy.
"""

from __future__ import annotations

import os

from northstar.linux.cgroupfs import write


def register_event(directory: str, eventfd: int, file: str) -> None:
    """Make the kernel signal an eventfd(2) on the events of a file of a memory cgroup.

    The events of `memory.oom_control` are each time that the cgroup is out of memory, and the
    removal of the cgroup. Closing the eventfd ends the registration.

    Raises:
        OSError: the file is missing, or the kernel refuses.
    """
    path = f"{directory}/{file}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        write(f"{directory}/cgroup.event_control", f"{eventfd} {fd}")
    finally:
        os.close(fd)


def open_tasks(directory: str) -> int:
    """Open the `tasks` file for writing; close-on-exec. The caller owns the descriptor.

    A thread that writes `0` to it moves itself. The kernel checks the permission of the process
    that opened the file, so a process without privilege can write to it.

    Raises:
        OSError: the cgroup was removed.
    """
    return os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
