"""Statistics for who polls them: the files of a container that is asked for often stay open."""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any, Final

from northstar.cgroups import Cgroup, Statistics

KEPT: Final = 1.0
"""Seconds without a question after which files are closed."""

RENEWED: Final = 10.0
"""Seconds after which they are opened anew: a module of the kernel may have brought new ones."""

_EACH: Final = 160
"""Of so many descriptors that we may have, files of one container stay open: a quarter of them."""


class _Entry:
    def __init__(self, statistics: Statistics, now: float) -> None:
        self.statistics = statistics
        self.opened = self.asked = now


class StatisticsCache:
    """Reads the statistics of containers, all in the event loop's thread.

    With open files that takes 0.15 ms; to open and close them takes three times as long. So who
    asks once has them opened and closed, and who asks again within a second has them kept open.
    To have a thread do it would cost as much again for nothing: while others make and remove
    cgroups without a pause, one read in a thousand waits for a lock of the kernel.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._entries: dict[Cgroup, _Entry] = {}
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _EACH
        self._timer: asyncio.TimerHandle | None = None

    def read(self, cgroup: Cgroup) -> dict[str, Any]:
        """Return what a container has used until now, as an inspect answer shows it."""
        now = time.monotonic()
        entry = self._entries.get(cgroup)
        again = entry is not None
        if entry is None:
            entry = self._entries[cgroup] = _Entry(cgroup.statistics(), now)
        elif now - entry.opened > RENEWED:
            entry.statistics.close()
            entry.opened = now
        entry.asked = now
        found = entry.statistics.read()
        if not again or len(self._entries) > self._most:
            entry.statistics.close()
        if self._timer is None:
            self._timer = self._loop.call_later(KEPT, self._forget_idle)
        return found

    def forget(self, cgroup: Cgroup) -> None:
        """Close what is open of a container, which has ended."""
        entry = self._entries.pop(cgroup, None)
        if entry is not None:
            entry.statistics.close()

    def _forget_idle(self) -> None:
        now = time.monotonic()
        for cgroup in [c for c, entry in self._entries.items() if now - entry.asked >= KEPT]:
            self.forget(cgroup)
        self._timer = self._loop.call_later(KEPT, self._forget_idle) if self._entries else None
