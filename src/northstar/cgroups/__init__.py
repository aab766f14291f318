"""Control groups of containers, of both versions and mixtures of them.

`host` knows which hierarchies there are, each with a version and some controllers; a container has
a directory in each. Only the names of files differ, and those are chosen by `limits`.

All functions block (some wait for the kernel) and belong into a thread.
"""

from northstar.cgroups.cgroup import Cgroup
from northstar.cgroups.host import CgroupHost
from northstar.cgroups.oom_monitor import OomMonitor
from northstar.cgroups.stats import Statistics
from northstar.cgroups.tree import Hierarchy

__all__ = ["Cgroup", "CgroupHost", "Hierarchy", "OomMonitor", "Statistics"]
