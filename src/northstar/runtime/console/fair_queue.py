"""A queue of connections with much to do: each does a piece of it in a pass of the event loop."""

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
        """Do the work; False if it was cancelled."""
        work, self._work = self._work, None
        if work is not None:
            work()
        return work is not None


class FairQueue:
    """A queue whose first entry runs in each pass of the event loop.

    With a `call_soon` of its own for each, a pass would take the longer the more there are, and
    everything else that a start or an exit waits for would wait that long at each of its steps.
    """

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def wait(self, work: Callable[[], object]) -> Entry:
        """Do `work` after all that wait now, and not before the next pass of the event loop."""
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
