"""Monitors that report when a container is out of memory.

Both are file descriptors for the event loop. They only report: the kernel kills processes.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from northstar.linux import cgroup1, cgroupfs, inotify
from northstar.linux.descriptor import Descriptor


class MemoryEvents(NamedTuple):
    """Counts since the container's start; None for counters that this cgroup version lacks.

    Attributes:
        low: memory was reclaimed although usage was below the soft limit.
        high, max: usage was about to exceed `memory.high`, or the hard limit.
        oom: the limit was reached and no memory could be reclaimed. Version 1 has no counter, but
            signals each event: always 1.
        oom_kill: processes that were killed for it.
        out_of_memory: oom or oom_kill has grown since the last read.
    """

    low: int | None = None
    high: int | None = None
    max: int | None = None
    oom: int | None = None
    oom_kill: int | None = None
    out_of_memory: bool = False


class OomMonitor(Descriptor):
    """A descriptor that becomes readable at an event of the memory limit."""

    def __init__(self, directory: str, fd: int) -> None:
        super().__init__(fd)
        self._directory = directory

    def read(self) -> MemoryEvents | None:
        """Return the events since the last read; None without any, or if the cgroup was removed."""
        raise NotImplementedError


class EventFile(OomMonitor):
    """Version 2: `memory.events`, watched by inotify(7)."""

    def __init__(self, directory: str) -> None:
        """Start watching.

        Raises:
            OSError: the file is missing, or the user's limit of inotify instances is reached.
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
            OSError: the kernel lacks these events (PREEMPT_RT).
        """
        super().__init__(directory, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        try:
            cgroup1.register_event(directory, self._fd, "memory.oom_control")
        except BaseException:
            self.close()
            raise

    def read(self) -> MemoryEvents | None:
        """Return whether the container was out of memory. The kernel does not report how often."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return None
        # The removal of the cgroup signals the eventfd as well.
        if not os.path.exists(f"{self._directory}/memory.oom_control"):
            return None
        return MemoryEvents(oom=1, out_of_memory=True)
