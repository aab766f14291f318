"""Control groups of containers: which hierarchies the host has, and a container's place in them.

Both versions, and mixtures of them, are one thing here: a host has hierarchies, each with a version
and some controllers, and a container has one directory in each. Only the names of files differ, and
those are chosen by `cgroup_limits.py`.

All functions block (some wait for the kernel) and belong into a thread.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from northstar.linux import cgroup1, cgroup2, cgroupfs, mountinfo
from northstar.manifest.cgroups import Cgroups
from northstar.model.errors import HostError, LaunchError
from northstar.runtime import cgroup_limits, cgroup_realtime, cgroup_tree
from northstar.runtime.cgroup_limits import UNSUPPORTED, Write
from northstar.runtime.cgroup_oom import EventFile, OomControl, OomMonitor
from northstar.runtime.cgroup_stats import Statistics
from northstar.runtime.cgroup_tree import REMOVE_TIMEOUT, V2_NAMES, Hierarchy

CONTROLLERS: Final = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids")


class CgroupHost:
    """The hierarchies of this host that containers have a place in.

    Attributes:
        hierarchies: no controller is in two of them.
        usable: the version of each controller's hierarchy.
    """

    def __init__(self, hierarchies: Iterable[Hierarchy]) -> None:
        self.hierarchies = tuple(hierarchies)
        self.usable: Mapping[str, int] = {
            controller: hierarchy.version
            for hierarchy in self.hierarchies
            for controller in sorted(hierarchy.controllers)
        }
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self._prepared: set[tuple[str, str]] = set()

    @classmethod
    def detect(cls) -> CgroupHost:
        """Find the hierarchies that are mounted, visible and writable.

        Raises:
            OSError: the mounts cannot be read.
        """
        found = []
        for mount in mountinfo.read():
            if mount.fstype not in ("cgroup", "cgroup2") or not _visible(mount):
                continue
            offered: Iterable[str] = ()
            if mount.fstype == "cgroup2":
                with suppress(OSError):
                    offered = cgroup2.controllers(mount.mount_point)
            found.append((mount, offered))
        return cls(choose_hierarchies(found))

    def claim(self, path: str) -> None:
        """Take a path for one container, until `release`.

        A cgroup inside another container's would end with that one, and in version 2 would keep it
        from having processes.

        Raises:
            HostError: another container has this cgroup, one above or one below it.
        """
        with self._lock:
            for other in self._claimed:
                if f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/"):
                    raise HostError(
                        f"the cgroup {path} is not free: another container has {other}",
                        hint="choose another cgroups.parent in the manifest",
                    )
            self._claimed.add(path)

    def release(self, path: str) -> None:
        """Give back what was claimed."""
        with self._lock:
            self._claimed.discard(path)

    def prepare(self, hierarchy: Hierarchy, parent: str, *, again: bool = False) -> list[str]:
        """Make the cgroups that containers are put into; return warnings.

        Once is enough, unless there was a warning: then each start says so, and tries.

        Raises:
            OSError: a directory cannot be made.
        """
        key = (hierarchy.path, parent)
        if key in self._prepared and not again:
            return []
        warnings = cgroup_tree.make_parents(hierarchy, parent)
        if not warnings:
            self._prepared.add(key)
        return warnings

    @property
    def description(self) -> str:
        """What was found, for the log: `v1 (cpu, memory)`."""
        parts = []
        for version in (1, 2):
            names = [name for name in CONTROLLERS if self.usable.get(name) == version]
            if names or any(hierarchy.version == version for hierarchy in self.hierarchies):
                parts.append(f"v{version} ({', '.join(names) or 'no controllers'})")
        return ", ".join(parts) or "none"


def choose_hierarchies(
    mounts: Iterable[tuple[mountinfo.MountInfo, Iterable[str]]],
) -> list[Hierarchy]:
    """Choose from the mounts of cgroup file systems: pure.

    The unified hierarchy of a hybrid host counts if it has a controller of ours: without one it
    would only be one more place to attach to. Where nothing else is mounted it counts all the same,
    for processes can be started in it and killed together.

    Args:
        mounts: each with the controllers that it offers, if it is of version 2.
    """
    chosen: list[Hierarchy] = []
    unified: Hierarchy | None = None
    taken: set[str] = set()
    for mount, offered in mounts:
        if "rw" not in mount.options or "rw" not in mount.super_options:
            continue
        if mount.fstype == "cgroup2":
            names = frozenset(V2_NAMES[name] for name in offered if name in V2_NAMES)
            unified = unified or Hierarchy(mount.mount_point, 2, names)
        else:
            names = frozenset(CONTROLLERS) & frozenset(mount.super_options) - taken
            if names:
                chosen.append(Hierarchy(mount.mount_point, 1, names))
                taken |= names
    if unified and (not chosen or unified.controllers - taken):
        chosen.append(unified._replace(controllers=unified.controllers - taken))
    return chosen


def _visible(mount: mountinfo.MountInfo) -> bool:
    """Return whether the mount point shows this mount, and not another one on top of it."""
    try:
        device = os.stat(mount.mount_point).st_dev
    except OSError:
        return False
    return (os.major(device), os.minor(device)) == (mount.major, mount.minor)


class Cgroup:
    """A container's cgroup: a directory in each hierarchy of the host.

    Attributes:
        host: where it is.
        path: below each hierarchy, as `northstar/hello`.
        warnings: what could not be had, one sentence each.
    """

    def __init__(self, host: CgroupHost, path: str) -> None:
        self.host = host
        self.path = path
        self.warnings: list[str] = []
        self._made: list[Hierarchy] = []
        self._has_budget = False

    @classmethod
    def create(cls, host: CgroupHost, top: str, name: str, config: Cgroups | None) -> Cgroup:
        """Make a container's cgroup and set its limits.

        What an earlier run left there is replaced. Below `top`, which is the runtime's own, that
        includes processes: they are killed. Below a parent of the manifest's choice they may be
        anybody's (a package named after a service must not end that service), so there a cgroup
        with processes is refused.

        Args:
            host: from `CgroupHost.detect`.
            top: the runtime's cgroup, relative to the hierarchies' roots.
            name: of the container.
            config: the manifest's section.

        Raises:
            OSError: a directory cannot be made.
            HostError: the cgroup is used by other processes or another container.
            LaunchError: the kernel refuses a limit; nothing is left behind.
        """
        parent = "/".join(filter(None, ((config and config.parent) or top).split("/")))
        self = cls(host, f"{parent}/{name}")
        host.claim(self.path)
        own = f"{parent}/".startswith(f"{top}/")
        try:
            for hierarchy in host.hierarchies:
                self.warnings += host.prepare(hierarchy, parent)
                directory = self.directory(hierarchy)
                try:
                    cgroup_tree.make_anew(hierarchy, directory, own=own)
                except FileNotFoundError:
                    # Somebody has removed the parent, which was prepared for an earlier start.
                    self.warnings += host.prepare(hierarchy, parent, again=True)
                    cgroup_tree.make_anew(hierarchy, directory, own=own)
                self._made.append(hierarchy)
            if config:
                self._apply(config)
        except BaseException:
            with suppress(OSError):
                self.destroy()
            raise
        return self

    def directory(self, hierarchy: Hierarchy) -> str:
        """Return the path of this cgroup in a hierarchy."""
        return f"{hierarchy.path}/{self.path}"

    def controller(self, name: str) -> str | None:
        """Return the path of this cgroup where a controller is, None if the host lacks that."""
        for hierarchy in self._made:
            if name in hierarchy.controllers:
                return self.directory(hierarchy)
        return None

    def into_fd(self) -> int | None:
        """Open the v2 cgroup for CLONE_INTO_CGROUP; the caller owns it. None on a v1 host.

        Raises:
            OSError: it is gone.
        """
        for hierarchy in self._made:
            if hierarchy.version == 2:
                return cgroup2.open_directory(self.directory(hierarchy))
        return None

    def open_tasks(self) -> list[int]:
        """Open the `tasks` files of the v1 hierarchies, for a process that joins by itself.

        A process of one thread that writes `0` to each has joined in 0.1 ms altogether. To move
        *another* process takes 50 times as long after idle time: the kernel must stop all forks and
        exits of the machine, but a thread that moves itself cannot exit meanwhile. (Linux 6.0;
        older kernels do both in the slow way.)

        Returns:
            descriptors, which the caller owns; none on a v2 host, see `into_fd`.

        Raises:
            OSError: the cgroup is gone, or there are too many descriptors.
        """
        opened: list[int] = []
        try:
            for hierarchy in self._made:
                if hierarchy.version == 1:
                    # A comprehension would lose what it had opened when it fails.
                    opened.append(cgroup1.open_tasks(self.directory(hierarchy)))  # noqa: PERF401
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return opened

    def destroy(self, timeout: float = REMOVE_TIMEOUT) -> None:
        """Kill what is left and remove the cgroup, with those that were made inside; idempotent.

        Args:
            timeout: seconds to wait for the last processes to be gone.

        Raises:
            OSError: EBUSY with the first path that could not be removed. The others are.
        """
        failure: OSError | None = None
        deadline = time.monotonic() + timeout
        for hierarchy in self._made:
            if self._has_budget and "cpu" in hierarchy.controllers:
                cgroup_realtime.give_back(hierarchy, self.directory(hierarchy), deadline)
            try:
                cgroup_tree.remove(hierarchy, self.directory(hierarchy), deadline)
            except OSError as error:
                failure = failure or error
        # What could not be removed is replaced by the container's next start.
        self.host.release(self.path)
        self._made.clear()
        if failure:
            raise failure

    def statistics(self) -> Statistics:
        """Return what reads how much the cgroup has used. The caller closes it.

        A controller that the host lacks, or that is gone meanwhile, is absent.
        """
        return Statistics(
            {
                controller: (hierarchy.version, self.directory(hierarchy))
                for hierarchy in self._made
                for controller in hierarchy.controllers
            }
        )

    def oom_monitor(self) -> OomMonitor | None:
        """Watch for the memory limit being hit. The caller closes it, before `destroy`.

        Returns:
            None if the host has no memory controller.

        Raises:
            OSError: the kernel has no such events, or no more watches.
        """
        for hierarchy in self._made:
            if "memory" in hierarchy.controllers:
                directory = self.directory(hierarchy)
                return EventFile(directory) if hierarchy.version == 2 else OomControl(directory)
        return None

    def _apply(self, config: Cgroups) -> None:
        plan = cgroup_limits.plan(config, self.host.usable)
        self.warnings += plan.warnings
        for write in plan.writes:
            directory = self.controller(write.controller)
            assert directory is not None
            if write.realtime:
                root = next(item for item in self._made if write.controller in item.controllers)
                cgroup_realtime.grant(root.path, self.path, write.realtime)
                self._has_budget = True
            self._write(directory, write)

    def _write(self, directory: str, write: Write) -> None:
        for file, value in write.choices:
            path = f"{directory}/{file}"
            put = cgroup_realtime.write if write.realtime else cgroupfs.write
            try:
                put(path, value)
            except OSError as error:
                number = error.errno or 0
                if number == errno.ENOENT and file != write.choices[-1][0]:
                    continue
                if write.required and number not in UNSUPPORTED:
                    raise LaunchError(f"write {value} to {path}", path, number) from None
                self.warnings.append(f"cannot write {value} to {path}: {os.strerror(number)}")
            return


def make_top(host: CgroupHost, top: str) -> list[str]:
    """Make the runtime's own cgroup, with what is above it; return warnings.

    Raises:
        OSError: a directory cannot be made.
    """
    return [
        warning
        for hierarchy in host.hierarchies
        for warning in cgroup_tree.make_parents(hierarchy, top)
    ]


def remove_top(host: CgroupHost, top: str) -> None:
    """Remove the runtime's own cgroup with everything below it that has no processes.

    Directories above it, where `top` is a path, stay.

    Raises:
        OSError: EBUSY if something below it is in use. Other hierarchies are done all the same.
    """
    failure: OSError | None = None
    for hierarchy in host.hierarchies:
        try:
            cgroup_tree.remove_tree(f"{hierarchy.path}/{top}")
        except OSError as error:
            failure = failure or error
    if failure:
        raise failure
