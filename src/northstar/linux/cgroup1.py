"""Control groups version 1: Documentation/admin-guide/cgroup-v1/.

Each controller may be mounted on its own, or several together in one hierarchy.
"""

from __future__ import annotations

import os

from northstar.linux.cgroupfs import write


def register_event(directory: str, eventfd: int, file: str) -> None:
    """Have an eventfd(2) signalled when something happens in a memory cgroup.

    For `memory.oom_control` that is each time the cgroup is out of memory, and also the removal
    of the cgroup. Closing the eventfd ends it.

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

    `0` written to it moves the writing thread, whoever that is by then: the permission is checked
    against the opener.

    Raises:
        OSError: the cgroup is gone.
    """
    return os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
