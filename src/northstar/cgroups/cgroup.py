"""A container's cgroup: creation, limits, statistics, removal."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from northstar.cgroups import limits, realtime, tree
from northstar.cgroups.host import CgroupHost
from northstar.cgroups.limits import UNSUPPORTED, Write
from northstar.cgroups.oom_monitor import EventFile, OomControl, OomMonitor
from northstar.cgroups.stats import Statistics
from northstar.cgroups.tree import REMOVE_TIMEOUT, Hierarchy
from northstar.linux import cgroup1, cgroup2, cgroupfs
from northstar.manifest.cgroups import Cgroups
from northstar.model import LaunchError
from northstar.model.deadline import Deadline

_ATTEMPTS = 5
"""Attempts to create a cgroup while another program or start removes its parent."""


class Cgroup:
    """A container's cgroup: a directory in each hierarchy of the host.

    Attributes:
        host: the hierarchies.
        path: below each hierarchy, such as `northstar/hello`.
        warnings: limits that could not be set, one sentence each.
    """

    def __init__(self, host: CgroupHost, path: str) -> None:
        self.host = host
        self.path = path
        self.warnings: list[str] = []
        self._made: list[Hierarchy] = []
        self._has_budget = False

    @classmethod
    def create(
        cls,
        host: CgroupHost,
        top: str,
        name: str,
        config: Cgroups | None,
        restore: Callable[[], object] | None = None,
    ) -> Cgroup:
        """Create a container's cgroup and set its limits.

        A cgroup that an earlier run left is replaced. Below `top`, the runtime's cgroup, its
        processes are killed. Below a parent that the manifest chooses they may belong to any
        program (a package with the name of a service must not end that service), so there a
        cgroup with processes is refused.

        Args:
            host: from `CgroupHost.detect`.
            top: the runtime's cgroup, relative to the hierarchies' roots.
            name: of the container.
            config: the manifest's section.
            restore: called after `top` had to be created again, to lock it.

        Raises:
            OSError: a directory cannot be made.
            HostError: the cgroup is used by other processes or another container.
            LaunchError: the kernel refuses a limit.

        A failure leaves no cgroup behind, and no parent that was created for it.
        """
        parent = "/".join(filter(None, ((config and config.parent) or top).split("/")))
        self = cls(host, f"{parent}/{name}")
        host.claim(self.path)
        own = f"{parent}/".startswith(f"{top}/")
        parents: list[str] = []
        try:
            for hierarchy in host.hierarchies:
                self._make(hierarchy, parent, parents, own=own)
                self._made.append(hierarchy)
            tops = {f"{hierarchy.path}/{top}" for hierarchy in host.hierarchies}
            if restore is not None and not tops.isdisjoint(parents):
                restore()
            if config:
                self._apply(config)
        except BaseException:
            with suppress(OSError):
                self.destroy()
            # Another start that needs the same parents creates them again.
            tree.remove_parents(parents)
            raise
        return self

    def _make(
        self,
        hierarchy: Hierarchy,
        parent: str,
        made: list[str],
        *,
        own: bool,
    ) -> None:
        """Create the directory in one hierarchy; add to `made` the parents that were created."""
        for attempt in range(_ATTEMPTS):
            try:
                parents = self.host.prepare(hierarchy, parent, again=attempt > 0)
                self.warnings += parents.warnings
                made += parents.made
                tree.create_or_replace(hierarchy, self.directory(hierarchy), own=own)
            except FileNotFoundError:
                # The parent was prepared for an earlier start, and another program has removed
                # it; or another start has created it, and has removed it after a failure.
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def directory(self, hierarchy: Hierarchy) -> str:
        """Return the path of this cgroup in a hierarchy."""
        return f"{hierarchy.path}/{self.path}"

    def controller(self, name: str) -> str | None:
        """Return this cgroup's path in a controller's hierarchy, None if the host lacks that."""
        for hierarchy in self._made:
            if name in hierarchy.controllers:
                return self.directory(hierarchy)
        return None

    def into_fd(self) -> int | None:
        """Open the v2 cgroup for CLONE_INTO_CGROUP; the caller owns it. None on a v1 host.

        Raises:
            OSError: the cgroup was removed.
        """
        for hierarchy in self._made:
            if hierarchy.version == 2:
                return cgroup2.open_directory(self.directory(hierarchy))
        return None

    def open_procs(self) -> int:
        """Open the `cgroup.procs` file of the v2 hierarchy, for a process that moves itself.

        Returns:
            a descriptor, which the caller owns.

        Raises:
            OSError: the cgroup was removed, or too many descriptors are open.
        """
        (unified,) = (hierarchy for hierarchy in self._made if hierarchy.version == 2)
        return cgroup2.open_procs(self.directory(unified))

    def open_tasks(self, number: int) -> int:
        """Open the `tasks` file of a v1 hierarchy, for a process that moves itself.

        A single-threaded process that writes `0` to each of these files joins the cgroup in 0.1 ms
        altogether. Moving *another* process takes 50 times as long after idle time: the kernel must
        stop all forks and exits of the machine, but a thread that moves itself cannot exit
        meanwhile. (Linux 6.0; older kernels use the slow way for both.)

        Args:
            number: index of the v1 hierarchy, from 0.

        Returns:
            a descriptor, which the caller owns.

        Raises:
            OSError: the cgroup was removed, or too many descriptors are open.
        """
        hierarchies = [hierarchy for hierarchy in self._made if hierarchy.version == 1]
        return cgroup1.open_tasks(self.directory(hierarchies[number]))

    def destroy_if_empty(self) -> bool:
        """Remove the cgroup if no process and no cgroup is in it, which is usual after an exit.

        This is one rmdir(2) in each hierarchy, without retries. It waits for locks of the kernel's
        cgroup code at most, which are held for some ms, and for no device.

        Returns:
            False if something is left, which `destroy` removes.
        """
        if self._has_budget:
            return False
        for hierarchy in self._made:
            try:
                os.rmdir(self.directory(hierarchy))
            except FileNotFoundError:
                continue  # another program has removed it
            except OSError:
                return False
        self._made.clear()
        self.host.release(self.path)
        return True

    def destroy(self, timeout: float = REMOVE_TIMEOUT) -> None:
        """Kill all processes, and remove the cgroup and those below it; idempotent.

        Args:
            timeout: seconds to wait for the end of the last processes.

        Raises:
            OSError: EBUSY with the first path that could not be removed. The others are removed.
        """
        failure: OSError | None = None
        deadline = Deadline(timeout)
        for hierarchy in self._made:
            if self._has_budget and "cpu" in hierarchy.controllers:
                realtime.release(hierarchy, self.directory(hierarchy), deadline)
            try:
                tree.remove(hierarchy, self.directory(hierarchy), deadline)
            except OSError as error:
                failure = failure or error
        # The container's next start replaces cgroups that could not be removed.
        self.host.release(self.path)
        self._made.clear()
        if failure:
            raise failure

    def statistics(self) -> Statistics:
        """Return a reader of the cgroup's statistics. The caller closes it.

        Controllers that the host lacks, or whose directory was removed, are absent.
        """
        return Statistics(
            {
                controller: (hierarchy.version, self.directory(hierarchy))
                for hierarchy in self._made
                for controller in hierarchy.controllers
            }
        )

    def oom_monitor(self) -> OomMonitor | None:
        """Watch the events of the memory limit. The caller closes the monitor, before `destroy`.

        Returns:
            None if the host has no memory controller.

        Raises:
            OSError: the kernel lacks these events, or no watch is left.
        """
        for hierarchy in self._made:
            if "memory" in hierarchy.controllers:
                directory = self.directory(hierarchy)
                return EventFile(directory) if hierarchy.version == 2 else OomControl(directory)
        return None

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has killed for lack of memory.

        0 if the host has no memory controller, or a kernel that does not count them (Linux 4.13).
        """
        for hierarchy in self._made:
            if "memory" in hierarchy.controllers:
                file = "memory.events" if hierarchy.version == 2 else "memory.oom_control"
                try:
                    content = cgroupfs.read(f"{self.directory(hierarchy)}/{file}")
                except OSError:
                    return 0  # another program has removed the directory
                return cgroupfs.flat_keyed(content).get("oom_kill", 0)
        return 0

    def _apply(self, config: Cgroups) -> None:
        plan = limits.plan(config, self.host.usable)
        self.warnings += plan.warnings
        for write in plan.writes:
            directory = self.controller(write.controller)
            assert directory is not None
            if write.realtime:
                root = next(item for item in self._made if write.controller in item.controllers)
                realtime.grant(root.path, self.path, write.realtime)
                self._has_budget = True
            self._write(directory, write)

    def _write(self, directory: str, write: Write) -> None:
        for file, value in write.choices:
            path = f"{directory}/{file}"
            put = realtime.write if write.realtime else cgroupfs.write
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
