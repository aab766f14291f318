"""The cgroup hierarchies of the host, and the runtime's cgroup in each.

Version 1, version 2 and hosts with both are one case here: a host has hierarchies, each with a
version and some controllers.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from northstar.cgroups import tree
from northstar.cgroups.tree import V2_NAMES, Hierarchy, Parents
from northstar.linux import cgroup2, mountinfo
from northstar.model import HostError

CONTROLLERS: Final = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids")


class CgroupHost:
    """The hierarchies of this host that containers use.

    Attributes:
        hierarchies: each controller is in at most one of them.
        usable: for each controller the version of its hierarchy.
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
        # How many claimed cgroups are at or below each cgroup.
        self._above: Counter[str] = Counter()
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
        """Reserve a path for one container, until `release`.

        A cgroup inside another container's would be killed with that one. In version 2 the outer
        cgroup could not contain processes.

        Raises:
            HostError: another container has this cgroup, or one above or below it.
        """
        with self._lock:
            # The start of one of hundreds of containers must not look at all of them.
            above = _and_above(path)
            other = next((cgroup for cgroup in above if cgroup in self._claimed), None)
            if other is None and path in self._above:
                other = next(cgroup for cgroup in self._claimed if path in _and_above(cgroup))
            if other is not None:
                raise HostError(
                    f"the cgroup {path} is not free: another container has {other}",
                    hint="choose another cgroups.parent in the manifest",
                )
            self._claimed.add(path)
            self._above.update(above)

    def release(self, path: str) -> None:
        """Release a reserved path."""
        with self._lock:
            if path in self._claimed:
                self._claimed.remove(path)
                for cgroup in _and_above(path):
                    self._above[cgroup] -= 1
                    if not self._above[cgroup]:
                        del self._above[cgroup]

    def prepare(self, hierarchy: Hierarchy, parent: str, *, again: bool = False) -> Parents:
        """Create the parent of containers' cgroups.

        This happens once per parent. After a warning each start tries again, and repeats it.

        Args:
            hierarchy: in which to create it.
            parent: relative to the hierarchy's root.
            again: the parent was removed meanwhile.

        Raises:
            OSError: a directory cannot be made.
        """
        key = (hierarchy.path, parent)
        if key in self._prepared and not again:
            return Parents([], [])
        parents = tree.make_parents(hierarchy, parent)
        if not parents.warnings:
            self._prepared.add(key)
        return parents

    def create_runtime_cgroup(self, top: str) -> list[str]:
        """Create the runtime's cgroup and its parents; return warnings.

        Raises:
            OSError: a directory cannot be made; no new directory is left behind.
        """
        made: list[str] = []
        warnings: list[str] = []
        try:
            for hierarchy in self.hierarchies:
                parents = tree.make_parents(hierarchy, top)
                made += parents.made
                warnings += parents.warnings
        except BaseException:
            tree.remove_parents(made)
            raise
        return warnings

    def remove_runtime_cgroup(self, top: str) -> None:
        """Remove the runtime's cgroup and all cgroups below it that contain no processes.

        The parents stay, if `top` is a path with several levels.

        Raises:
            OSError: EBUSY if a cgroup contains processes. All hierarchies are processed first.
        """
        failure: OSError | None = None
        for hierarchy in self.hierarchies:
            try:
                tree.remove_tree(f"{hierarchy.path}/{top}")
            except OSError as error:
                failure = failure or error
        if failure:
            raise failure

    @property
    def description(self) -> str:
        """The versions and controllers, for the log: `v1 (cpu, memory)`."""
        parts = []
        for version in (1, 2):
            names = [name for name in CONTROLLERS if self.usable.get(name) == version]
            if names or any(hierarchy.version == version for hierarchy in self.hierarchies):
                parts.append(f"v{version} ({', '.join(names) or 'no controllers'})")
        return ", ".join(parts) or "none"


def _and_above(path: str) -> list[str]:
    """Return a cgroup and all above it."""
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(len(parts), 0, -1)]


def choose_hierarchies(
    mounts: Iterable[tuple[mountinfo.MountInfo, Iterable[str]]],
) -> list[Hierarchy]:
    """Choose the hierarchies from the mounts of cgroup file systems. Pure.

    The unified hierarchy of a hybrid host counts only if it has one of CONTROLLERS: without one,
    each process would join one more hierarchy for no use. If it is the only hierarchy, it always
    counts, since processes can be started in it and killed together.

    Args:
        mounts: each with its controllers, if it is version 2.
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
    """Return whether the mount point shows this mount, not another one above it."""
    try:
        device = os.stat(mount.mount_point).st_dev
    except OSError:
        return False
    return (os.major(device), os.minor(device)) == (mount.major, mount.minor)
