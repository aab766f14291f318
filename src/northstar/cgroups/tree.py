"""A container's directory in one cgroup hierarchy: creation, killing of processes, removal.

A cgroup stays busy until the kernel has released its last process, a moment after its death. So
the removal is repeated for a while.
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

# Names of version 2 to those of version 1 and of the manifest: only blkio differs.
V2_NAMES: Final = {
    "cpu": "cpu",
    "cpuset": "cpuset",
    "memory": "memory",
    "io": "blkio",
    "pids": "pids",
}

# Seconds that a cgroup may stay busy after its processes were killed.
REMOVE_TIMEOUT = 2.0
_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.01
# Maximum of pidfds that are open at a time during a kill.
_KILL_BATCH = 64


class Hierarchy(NamedTuple):
    """A mounted cgroup hierarchy.

    Attributes:
        path: the mount point.
        version: 1 or 2.
        controllers: its controllers, limited to CONTROLLERS.
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
    """The result of `make_parents`.

    Attributes:
        made: the new cgroups, the outermost first.
        warnings: one sentence each.
    """

    made: list[str]
    warnings: list[str]


def make_parents(hierarchy: Hierarchy, path: str) -> Parents:
    """Create the cgroups down to `path`, and enable the controllers for their children.

    Raises:
        OSError: a cgroup cannot be created; the new ones above it are removed.
    """
    parents = Parents([], [])
    above = hierarchy.path
    try:
        for directory in levels(hierarchy.path, path):
            if hierarchy.version == 2:
                parents.warnings.extend(_enable_controllers(above, hierarchy))
            with suppress(FileExistsError):
                os.mkdir(directory)
                parents.made.append(directory)
            if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
                _inherit_cpuset(above, directory)
            above = directory
        if hierarchy.version == 2:
            parents.warnings.extend(_enable_controllers(above, hierarchy))
    except BaseException:
        remove_parents(parents.made)
        raise
    return parents


def remove_parents(made: Sequence[str]) -> None:
    """Remove cgroups that `make_parents` has created, except those that are used meanwhile."""
    for directory in reversed(made):
        with suppress(OSError):
            os.rmdir(directory)


def _enable_controllers(directory: str, hierarchy: Hierarchy) -> list[str]:
    """Enable the controllers for the children of a v2 cgroup; return warnings."""
    names = {name for name, v1_name in V2_NAMES.items() if v1_name in hierarchy.controllers}
    missing = names - cgroup2.subtree_control(directory)
    if not missing:
        return []
    try:
        cgroup2.enable(directory, missing)
    except OSError:
        # The write enables all or none. Single writes show which controller fails.
        return [
            warning for name in sorted(missing) for warning in _enable_controller(directory, name)
        ]
    return []


def _enable_controller(directory: str, name: str) -> list[str]:
    try:
        cgroup2.enable(directory, [name])
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        if error.errno == errno.EBUSY:
            reason = "this cgroup contains processes"
        return [f"the controller {name} cannot be enabled below {directory}: {reason}"]
    return []


def _inherit_cpuset(above: str, directory: str) -> None:
    """Fill a v1 cpuset: it is created without cpus and memory nodes, and accepts no process then.

    `cgroup.clone_children` makes its new children inherit them.
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


def create_or_replace(hierarchy: Hierarchy, directory: str, *, own: bool) -> None:
    """Create a container's directory. An existing one is replaced, since its limits are stale.

    Args:
        hierarchy: in which to create it.
        directory: of the container.
        own: processes in an existing one were started by a runtime, and are killed.

    Raises:
        OSError: it cannot be created, or its processes cannot be killed in time.
        HostError: it contains processes of other programs, or the runtime itself.
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
    """Return whether this process is in a cgroup or in one below it."""
    return any(os.getpid() in procs(below) for below in tree(directory))


def children(directory: str) -> list[str]:
    """Return the sorted direct children of a cgroup; none if it was removed."""
    return sorted(cgroupfs.children(directory))


def tree(directory: str) -> list[str]:
    """Return a cgroup and all below it, children before parents.

    Iterative, since the depth of a hierarchy is not bounded.
    """
    found: list[str] = []
    pending = [directory]
    while pending:
        found.append(pending.pop())
        pending += cgroupfs.children(found[-1])
    return found[::-1]


def procs(directory: str) -> set[int]:
    """Return the processes of one cgroup; none if it was removed."""
    try:
        return set(cgroupfs.procs(directory))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return set()
        raise


def remove(hierarchy: Hierarchy, directory: str, deadline: Deadline) -> None:
    """Remove a cgroup; while it is busy, kill its processes and try again.

    Raises:
        OSError: EBUSY after the deadline.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return remove_tree(directory)
        except OSError as error:
            # A dead process is not listed, but keeps its cgroup busy until the kernel releases it.
            if error.errno != errno.EBUSY:
                raise
            kill(hierarchy, directory)
            if deadline.passed():
                raise
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def remove_tree(directory: str) -> None:
    """Remove a cgroup and those below it, except those with processes.

    Raises:
        OSError: EBUSY with the first one that has processes.
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
    # All cgroups above a busy one are busy too, so only the first failure is reported.
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
        # Without forks no new process can escape the kill below.
        for below in tree(directory):
            with suppress(OSError):
                cgroupfs.write(f"{below}/pids.max", "0")
    for below in tree(directory):
        pids = sorted(procs(below) - {os.getpid()})
        for start in range(0, len(pids), _KILL_BATCH):
            _kill_batch(below, pids[start : start + _KILL_BATCH])
    return None


def _kill_batch(directory: str, pids: list[int]) -> None:
    """Kill processes of one cgroup, and never any other.

    A pid that was read may belong to another process meanwhile. So pidfds are opened first, and the
    list is read again: a process with a pidfd whose pid is still listed is in the cgroup.
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
