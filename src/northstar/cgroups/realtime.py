"""Budgets for real-time processes in version 1: those of a cgroup and of all cgroups above it.

The kernel (Documentation/scheduler/sched-rt-group.rst) requires that the budgets of a cgroup's
children do not exceed its own. The root has 95 %, and the default of all other cgroups is 0. So a
container's budget must be set on every level.
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

# The budget of a removed cgroup is in use until the kernel has freed the cgroup.
_RECLAIM_TIMEOUT = 0.5
_PAUSE = 0.005

# The budgets are read, added and written by one thread at a time.
_lock = threading.Lock()


def grant(root: str, path: str, budget: tuple[int, int]) -> None:
    """Set the budgets of the cgroups above one, so that they cover all cgroups below them.

    They are not reset later: an unused budget costs nothing.

    Args:
        root: of the cpu hierarchy.
        path: of the cgroup, relative to `root`.
        budget: of the cgroup, (runtime, period) in microseconds. The caller sets it afterwards.

    Raises:
        LaunchError: the kernel refuses, for example because the root's budget is used up.
    """
    runtime, period = budget
    levels = list(tree.levels(root, os.path.dirname(path)))
    if runtime <= 0:
        return
    with _lock:
        # The needs are computed from the bottom up, and written from the top down.
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
    """Write a budget; repeat for a moment while removed cgroups still use it.

    Raises:
        OSError: EINVAL if the cgroup above has less left.
    """
    deadline = Deadline(_RECLAIM_TIMEOUT)
    while True:
        try:
            return cgroupfs.write(path, value)
        except OSError as error:
            if error.errno != errno.EINVAL or deadline.passed():
                raise
        time.sleep(_PAUSE)


def release(hierarchy: tree.Hierarchy, directory: str, deadline: Deadline) -> None:
    """Set a cgroup's budget to 0 before its removal; kill the processes that use it.

    The kernel keeps a removed cgroup, with its budget, until its last zombie is reaped.
    """
    while True:
        try:
            return cgroupfs.write(f"{directory}/cpu.rt_runtime_us", "0")
        except OSError as error:
            # EBUSY: the cgroup contains real-time processes.
            if error.errno != errno.EBUSY or deadline.passed():
                return None
        tree.kill(hierarchy, directory)
        time.sleep(_PAUSE)


def _set_share(directory: str, needed: float) -> None:
    path = f"{directory}/cpu.rt_runtime_us"
    try:
        period = int(cgroupfs.read(f"{directory}/cpu.rt_period_us"))
        # Plus one, since the kernel compares rounded ratios.
        write(path, str(math.ceil(needed * period) + 1))
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return
        raise LaunchError(
            f"give real-time processes {needed:.1%} of a CPU in {directory}", path, error.errno or 0
        ) from None
