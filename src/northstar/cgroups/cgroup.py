"""A container's cgroup: made, limited, read, emptied and removed."""

from __future__ import annotations

import errno
import os
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
"""How often a cgroup is made whose parent is removed meanwhile."""


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
            LaunchError: the kernel refuses a limit.

        Nothing is left behind then, no parent either that was made for it.
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
            if config:
                self._apply(config)
        except BaseException:
            with suppress(OSError):
                self.destroy()
            # Another container that was to be put there finds them missing, and makes them anew.
            tree.unmake(parents)
            raise
        return self

    def _make(self, hierarchy: Hierarchy, parent: str, made: list[str], *, own: bool) -> None:
        """Make the directory in one hierarchy; add to `made` what had to be made above it."""
        for attempt in range(_ATTEMPTS):
            try:
                parents = self.host.prepare(hierarchy, parent, again=attempt > 0)
                self.warnings += parents.warnings
                made += parents.made
                tree.make_anew(hierarchy, self.directory(hierarchy), own=own)
            except FileNotFoundError:
                # Somebody has removed the parent, which was prepared for an earlier start; or it
                # was made by another start, which has failed.
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

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

    def open_tasks(self, number: int) -> int:
        """Open the `tasks` file of a v1 hierarchy, for a process that joins by itself.

        A process of one thread that writes `0` to each has joined in 0.1 ms altogether. To move
        *another* process takes 50 times as long after idle time: the kernel must stop all forks and
        exits of the machine, but a thread that moves itself cannot exit meanwhile. (Linux 6.0;
        older kernels do both in the slow way.)

        Args:
            number: which of the v1 hierarchies, from 0.

        Returns:
            a descriptor, which the caller owns.

        Raises:
            OSError: the cgroup is gone, or there are too many descriptors.
        """
        hierarchies = [hierarchy for hierarchy in self._made if hierarchy.version == 1]
        return cgroup1.open_tasks(self.directory(hierarchies[number]))

    def destroy(self, timeout: float = REMOVE_TIMEOUT) -> None:
        """Kill what is left and remove the cgroup, with those that were made inside; idempotent.

        Args:
            timeout: seconds to wait for the last processes to be gone.

        Raises:
            OSError: EBUSY with the first path that could not be removed. The others are.
        """
        failure: OSError | None = None
        deadline = Deadline(timeout)
        for hierarchy in self._made:
            if self._has_budget and "cpu" in hierarchy.controllers:
                realtime.give_back(hierarchy, self.directory(hierarchy), deadline)
            try:
                tree.remove(hierarchy, self.directory(hierarchy), deadline)
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
