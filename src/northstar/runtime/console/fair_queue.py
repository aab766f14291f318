"""A queue of connections with many requests: one of them is served in each pass of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Entry:
    """A place in the queue."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], object]) -> None:
        self._work: Callable[[], object] | None = work

    def cancel(self) -> None:
        """Leave the queue."""
        self._work = None

    def run(self) -> bool:
        """Do the work; return False if it was cancelled."""
        work, self._work = self._work, None
        if work is not None:
            work()
        return work is not None


class FairQueue:
    """A queue whose first entry runs in each pass of the event loop.

    With one `call_soon` per connection, a pass would take longer the more of them wait, and every
    step of a container's start or exit would be delayed by that time.
    """

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def wait(self, work: Callable[[], object]) -> Entry:
        """Do `work` after all current entries, in the next pass of the event loop or later."""
        entry = Entry(work)
        self._waiting.append(entry)
        self._schedule()
        return entry

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run_first)

    def _run_first(self) -> None:
        self._scheduled = False
        while self._waiting and not self._waiting.popleft().run():
            continue
        self._schedule()
