"""A container's directory in one cgroup hierarchy: made, emptied of processes, removed.

The kernel keeps a cgroup busy until its last process is gone, which is a moment after it died. So
removal tries again for a while; everything else happens once.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from northstar.linux import cgroup2, cgroupfs, pidfd
from northstar.model import HostError
from northstar.model.deadline import Deadline

# Version 2 calls blkio `io`. We keep the older name, which is the manifest's.
V2_NAMES: Final = {
    "cpu": "cpu",
    "cpuset": "cpuset",
    "memory": "memory",
    "io": "blkio",
    "pids": "pids",
}

# How long an emptied cgroup may stay busy: its last processes are dead, but not yet gone.
REMOVE_TIMEOUT = 2.0
_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.01
# Processes that are held by descriptor at a time while they are killed.
_KILL_BATCH = 64


class Hierarchy(NamedTuple):
    """A mounted cgroup hierarchy.

    Attributes:
        path: where it is mounted.
        version: 1 or 2.
        controllers: those of CONTROLLERS that it has.
    """

    path: str
    version: int
    controllers: frozenset[str]


def levels(root: str, path: str) -> Iterator[str]:
    """Yield the cgroups from below the root to `path`."""
    directory = root
    for part in filter(None, path.split("/")):
        directory = f"{directory}/{part}"
        yield directory


class Parents(NamedTuple):
    """What `make_parents` has done.

    Attributes:
        made: the cgroups that were not there before, the outermost first.
        warnings: one sentence each.
    """

    made: list[str]
    warnings: list[str]


def make_parents(hierarchy: Hierarchy, path: str) -> Parents:
    """Make the cgroups down to `path` and have them pass their controllers on.

    Raises:
        OSError: one cannot be made; those that were made before it are removed again.
    """
    parents = Parents([], [])
    above = hierarchy.path
    try:
        for directory in levels(hierarchy.path, path):
            if hierarchy.version == 2:
                parents.warnings.extend(_pass_on(above, hierarchy))
            with suppress(FileExistsError):
                os.mkdir(directory)
                parents.made.append(directory)
            if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
                _inherit_cpuset(above, directory)
            above = directory
        if hierarchy.version == 2:
            parents.warnings.extend(_pass_on(above, hierarchy))
    except BaseException:
        unmake(parents.made)
        raise
    return parents


def unmake(made: Sequence[str]) -> None:
    """Remove cgroups that `make_parents` has made, but for those that are used meanwhile."""
    for directory in reversed(made):
        with suppress(OSError):
            os.rmdir(directory)


def _pass_on(directory: str, hierarchy: Hierarchy) -> list[str]:
    """Enable the controllers for the children of a v2 cgroup; return warnings."""
    names = {name for name, ours in V2_NAMES.items() if ours in hierarchy.controllers}
    missing = names - cgroup2.subtree_control(directory)
    if not missing:
        return []
    try:
        cgroup2.enable(directory, missing)
    except OSError:
        # All or none: one at a time tells which one it is.
        return [warning for name in sorted(missing) for warning in _pass_on_one(directory, name)]
    return []


def _pass_on_one(directory: str, name: str) -> list[str]:
    try:
        cgroup2.enable(directory, [name])
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        if error.errno == errno.EBUSY:
            reason = "it has processes of its own"
        return [f"the controller {name} cannot be enabled below {directory}: {reason}"]
    return []


def _inherit_cpuset(above: str, directory: str) -> None:
    """Fill a v1 cpuset, which is born without cpus and memory nodes and takes no process so.

    With `cgroup.clone_children` its children are born with its own.
    """
    empty = [
        file
        for file in ("cpuset.cpus", "cpuset.mems")
        if not cgroupfs.read(f"{directory}/{file}").strip()
    ]
    for file in empty:
        cgroupfs.write(f"{directory}/{file}", cgroupfs.read(f"{above}/{file}").strip())
    if empty:
        cgroupfs.write(f"{directory}/cgroup.clone_children", "1")


def make_anew(hierarchy: Hierarchy, directory: str, *, own: bool) -> None:
    """Make a container's directory. One that exists is replaced: its limits are of yesterday.

    Args:
        hierarchy: where.
        directory: of the container.
        own: whatever runs in it was started by us, and is killed.

    Raises:
        OSError: it cannot be made, or what is in it cannot be killed in time.
        HostError: it has processes that we did not start, or is the runtime's own.
    """
    try:
        os.mkdir(directory)
    except FileExistsError:
        if own and not is_ours(directory):
            remove(hierarchy, directory, Deadline(REMOVE_TIMEOUT))
        else:
            try:
                remove_tree(directory)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise HostError(
                    f"the cgroup {directory} has processes that are not the container's",
                    hint="choose another cgroups.parent in its manifest, or end them",
                ) from None
        os.mkdir(directory)
    if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
        try:
            _inherit_cpuset(os.path.dirname(directory), directory)
        except BaseException:
            os.rmdir(directory)
            raise


def is_ours(directory: str) -> bool:
    """Return whether this very process lives in a cgroup or below it."""
    return any(os.getpid() in procs(below) for below in tree(directory))


def children(directory: str) -> list[str]:
    """Return the cgroups right below one, in order; none if it is gone."""
    return sorted(cgroupfs.children(directory))


def tree(directory: str) -> list[str]:
    """Return a cgroup and all below it, each after those that are below it.

    No function calls itself here: the depth of a hierarchy is not bounded.
    """
    found: list[str] = []
    pending = [directory]
    while pending:
        found.append(pending.pop())
        pending += cgroupfs.children(found[-1])
    return found[::-1]


def procs(directory: str) -> set[int]:
    """Return the processes of one cgroup; none if it is gone, as it may be at any time."""
    try:
        return set(cgroupfs.procs(directory))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return set()
        raise


def remove(hierarchy: Hierarchy, directory: str, deadline: Deadline) -> None:
    """Remove a cgroup; while it is busy, kill what is in it and try again."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return remove_tree(directory)
        except OSError as error:
            # A dead process is no longer listed, but keeps its cgroup busy until it is gone.
            if error.errno != errno.EBUSY:
                raise
            kill(hierarchy, directory)
            if deadline.passed():
                raise
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def remove_tree(directory: str) -> None:
    """Remove a cgroup and those below it, except what has processes.

    Raises:
        OSError: EBUSY with the first that has some.
    """
    try:
        os.rmdir(directory)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EBUSY or not cgroupfs.children(directory):
            raise
    failure: OSError | None = None
    # What is above a busy one is busy too: that is no news.
    for below in tree(directory):
        try:
            os.rmdir(below)
        except FileNotFoundError:
            continue
        except OSError as error:
            failure = failure or error
    if failure:
        raise failure


def kill(hierarchy: Hierarchy, directory: str) -> None:
    """Send SIGKILL to every process in a cgroup and below it.

    Raises:
        OSError: a process refuses (EPERM).
    """
    if hierarchy.version == 2:
        with suppress(FileNotFoundError):
            return cgroup2.kill(directory)
    if "pids" in hierarchy.controllers:
        # What cannot fork cannot run away from us.
        for below in tree(directory):
            with suppress(OSError):
                cgroupfs.write(f"{below}/pids.max", "0")
    for below in tree(directory):
        pids = sorted(procs(below) - {os.getpid()})
        for start in range(0, len(pids), _KILL_BATCH):
            _kill_batch(below, pids[start : start + _KILL_BATCH])
    return None


def _kill_batch(directory: str, pids: list[int]) -> None:
    """Kill processes of one cgroup, and surely no other.

    A number that was read may be another process's by now. So the processes are held first, and the
    list is read again: a held process whose number is still in it is the one that is in the cgroup.
    """
    held: dict[int, int] = {}
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                held[pid] = pidfd.open(pid)
        for pid in held.keys() & procs(directory):
            with suppress(ProcessLookupError):
                pidfd.send_signal(held[pid], signal.SIGKILL)
    finally:
        for fd in held.values():
            os.close(fd)
