"""Control groups of containers, on hosts with version 1, version 2 or both.

`host` detects the hierarchies, each with a version and some controllers; a container has a
directory in each. Only the names of files differ between the versions; `limits` chooses them.

All functions block (some wait for the kernel), so call them in a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from northstar.cgroups.host import CgroupHost
from northstar.cgroups.tree import Hierarchy

if TYPE_CHECKING:
    from northstar.cgroups.cgroup import Cgroup
    from northstar.cgroups.oom_monitor import OomMonitor
    from northstar.cgroups.stats import Statistics

__all__ = ["Cgroup", "CgroupHost", "Hierarchy", "OomMonitor", "Statistics"]


def __getattr__(name: str) -> Any:
    # Only containers need these. Their imports take 5 ms, and the runtime boots without.
    if name == "Cgroup":
        from northstar.cgroups.cgroup import Cgroup

        return Cgroup
    if name == "OomMonitor":
        from northstar.cgroups.oom_monitor import OomMonitor

        return OomMonitor
    if name == "Statistics":
        from northstar.cgroups.stats import Statistics

        return Statistics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
