"""Being told when a container is out of memory.

Both monitors are file descriptors to wait for in the event loop. They are not the container's
killer: the kernel kills, this only tells.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from northstar.linux import cgroup1, cgroupfs, inotify
from northstar.linux.descriptor import Descriptor


class MemoryEvents(NamedTuple):
    """Counts since the container's start; None for what this version of cgroups does not count.

    Attributes:
        low: memory was reclaimed although usage was below the soft limit.
        high, max: usage was about to exceed `memory.high`, or the hard limit.
        oom: the limit was reached and nothing could be reclaimed. Version 1 does not count but
            tells each time: 1.
        oom_kill: processes killed for it.
        out_of_memory: an oom or oom_kill is news since the last time.
    """

    low: int | None = None
    high: int | None = None
    max: int | None = None
    oom: int | None = None
    oom_kill: int | None = None
    out_of_memory: bool = False


class OomMonitor(Descriptor):
    """A descriptor that becomes readable when something about the memory limit happened."""

    def __init__(self, directory: str, fd: int) -> None:
        super().__init__(fd)
        self._directory = directory

    def read(self) -> MemoryEvents | None:
        """Return what happened since the last time, None if nothing or if the cgroup is gone."""
        raise NotImplementedError


class EventFile(OomMonitor):
    """Version 2: `memory.events`, watched by inotify(7)."""

    def __init__(self, directory: str) -> None:
        """Start watching.

        Raises:
            OSError: the file is missing, or the user has no inotify instance left.
        """
        super().__init__(directory, inotify.init())
        self._last = MemoryEvents()
        try:
            inotify.add_watch(self._fd, f"{directory}/memory.events", inotify.IN_MODIFY)
            self._last = self._counts() or self._last
        except BaseException:
            self.close()
            raise

    def read(self) -> MemoryEvents | None:
        """Return the counts if they have changed."""
        inotify.read(self._fd)
        now = self._counts()
        last = self._last
        if now is None or now == last:
            return None
        self._last = now
        grew = (now.oom or 0) > (last.oom or 0) or (now.oom_kill or 0) > (last.oom_kill or 0)
        return now._replace(out_of_memory=grew)

    def _counts(self) -> MemoryEvents | None:
        try:
            found = cgroupfs.flat_keyed(cgroupfs.read(f"{self._directory}/memory.events"))
        except OSError:
            return None
        return MemoryEvents(
            low=found.get("low"),
            high=found.get("high"),
            max=found.get("max"),
            oom=found.get("oom"),
            oom_kill=found.get("oom_kill"),
        )


class OomControl(OomMonitor):
    """Version 1: an eventfd(2) that `memory.oom_control` signals."""

    def __init__(self, directory: str) -> None:
        """Start watching.

        Raises:
            OSError: the kernel has no such events (PREEMPT_RT).
        """
        super().__init__(directory, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        try:
            cgroup1.register_event(directory, self._fd, "memory.oom_control")
        except BaseException:
            self.close()
            raise

    def read(self) -> MemoryEvents | None:
        """Return that the container was out of memory. How often is not known."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return None
        # The removal of the cgroup signals too.
        if not os.path.exists(f"{self._directory}/memory.oom_control"):
            return None
        return MemoryEvents(oom=1, out_of_memory=True)
