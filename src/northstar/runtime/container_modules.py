"""The modules of the runtime that only containers need, and when they are imported.

The boot does not wait for them. They are imported with the first container, or else shortly after
the boot: so the first start need not wait, and an upgrade may replace the files of a runtime that
runs.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Final

from northstar.deferred import execute

DEFERRED: Final = (
    "northstar.cgroups.realtime",
    "northstar.devices.image_mount",
    "northstar.launch.seccomp",
    "northstar.linux.inotify",
    "northstar.linux.netns",
    "northstar.linux.notify",
    "northstar.linux.pidfd",
    "northstar.linux.removal",
    "northstar.npk.keylist",
    "northstar.runtime.data_snapshot",
    "northstar.runtime.terminal",
)
"""Deferred by the command, see `northstar.deferred`: others import them as modules."""

_ON_DEMAND: Final = ("northstar.cgroups.cgroup",)
"""Imported in the functions that need them."""

_DELAY: Final = 2.0
"""Seconds after the boot: clients that wait for it come first."""

_INTERVAL: Final = 0.02
"""Seconds between two imports of about 1 ms, in which the event loop serves clients."""


async def load() -> None:
    """Import them in small steps, when the boot is over.

    Raises:
        ImportError: a module is missing or broken.
    """
    await asyncio.sleep(_DELAY)
    for name in (*_ON_DEMAND, *DEFERRED):
        execute(importlib.import_module(name))
        await asyncio.sleep(_INTERVAL)
