"""Control groups of containers, on hosts with version 1, version 2 or both.

`host` detects the hierarchies, each with a version and some controllers; a container has a
directory in each. Only the names of files differ between the versions; `limits` chooses them.

All functions block (some wait for the kernel), so call them in a thread.
"""

from northstar.cgroups.cgroup import Cgroup
from northstar.cgroups.host import CgroupHost
from northstar.cgroups.oom_monitor import OomMonitor
from northstar.cgroups.stats import Statistics
from northstar.cgroups.tree import Hierarchy

__all__ = ["Cgroup", "CgroupHost", "Hierarchy", "OomMonitor", "Statistics"]
