"""Budgets for real-time processes in version 1: each cgroup's, and those of the cgroups above it.

The kernel (Documentation/scheduler/sched-rt-group.rst) wants that no cgroup promises its children
more than it has itself. The root has 95 %, every other one has nothing until it is given a budget;
so a container's budget must be given on every level.
"""

from __future__ import annotations

import errno
import math
import os
import threading
import time

from northstar.cgroups import tree
from northstar.cgroups.limits import UNSUPPORTED
from northstar.linux import cgroupfs
from northstar.model import LaunchError
from northstar.model.deadline import Deadline

# A removed cgroup's budget is in use until the kernel has really freed it.
_RECLAIM_TIMEOUT = 0.5
_PAUSE = 0.005

# What is needed is read, added up and written: one thread at a time.
_lock = threading.Lock()


def grant(root: str, path: str, budget: tuple[int, int]) -> None:
    """Give the cgroups above one a budget that holds all those below them.

    A budget once given stays: it costs nothing while nobody uses it.

    Args:
        root: of the cpu hierarchy.
        path: the cgroup, below it.
        budget: (runtime, period) in microseconds that it will have.

    Raises:
        LaunchError: the kernel refuses, as when the root has no more.
    """
    runtime, period = budget
    levels = list(tree.levels(root, os.path.dirname(path)))
    if runtime <= 0:
        return
    with _lock:
        # From the bottom up what each level needs, then written from the top down.
        needs = []
        child, needed = f"{root}/{path}", runtime / period
        for level in reversed(levels):
            needed += sum(share(other) for other in cgroupfs.children(level) if other != child)
            needed = max(needed, share(level))
            needs.append((level, needed))
            child = level
        for level, needed in reversed(needs):
            if share(level) < needed:
                _set_share(level, needed)


def share(directory: str) -> float:
    """Return the part of a CPU that a cgroup may use for real-time processes."""
    try:
        runtime = int(cgroupfs.read(f"{directory}/cpu.rt_runtime_us"))
        period = int(cgroupfs.read(f"{directory}/cpu.rt_period_us"))
    except (OSError, ValueError):
        return 0.0
    return max(runtime, 0) / period


def write(path: str, value: str) -> None:
    """Write a budget; wait for a moment if others, perhaps removed ones, still hold it.

    Raises:
        OSError: EINVAL if it is more than what the cgroup above has left.
    """
    deadline = Deadline(_RECLAIM_TIMEOUT)
    while True:
        try:
            return cgroupfs.write(path, value)
        except OSError as error:
            if error.errno != errno.EINVAL or deadline.passed():
                raise
        time.sleep(_PAUSE)


def give_back(hierarchy: tree.Hierarchy, directory: str, deadline: Deadline) -> None:
    """Take a cgroup's own budget away before it is removed: kill what uses it.

    A removed cgroup lives on in the kernel, with its budget, until its last zombie is reaped.
    """
    while True:
        try:
            return cgroupfs.write(f"{directory}/cpu.rt_runtime_us", "0")
        except OSError as error:
            # EBUSY: real-time processes are in it.
            if error.errno != errno.EBUSY or deadline.passed():
                return None
        tree.kill(hierarchy, directory)
        time.sleep(_PAUSE)


def _set_share(directory: str, needed: float) -> None:
    path = f"{directory}/cpu.rt_runtime_us"
    try:
        period = int(cgroupfs.read(f"{directory}/cpu.rt_period_us"))
        # One more, as the kernel compares ratios that it rounds itself.
        write(path, str(math.ceil(needed * period) + 1))
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return
        raise LaunchError(
            f"give real-time processes {needed:.1%} of a CPU in {directory}", path, error.errno or 0
        ) from None
