"""Control groups of containers, on hosts with version 1, version 2 or both.

`host` detects the hierarchies, each with a version and some controllers; a container has a
directory in each. Only the names of files differ between the versions; `limits` chooses them.

All functions block (some wait for the kernel), so call them in a thread.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from northstar.cgroups.host import CgroupHost
from northstar.cgroups.tree import Hierarchy

if TYPE_CHECKING:
    from northstar.cgroups.cgroup import Cgroup
    from northstar.cgroups.oom_monitor import OomMonitor
    from northstar.cgroups.stats import Statistics

__all__ = ["Cgroup", "CgroupHost", "Hierarchy", "OomMonitor", "Statistics"]


_LATER: Final = {"Cgroup": "cgroup", "OomMonitor": "oom_monitor", "Statistics": "stats"}
"""Only containers need these. Their imports take 5 ms, and the runtime boots without."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
