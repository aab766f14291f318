"""One after the other: who has much to do does a piece of it in each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turn:
    """A place in the queue."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], object]) -> None:
        self._work: Callable[[], object] | None = work

    def cancel(self) -> None:
        """Leave the queue."""
        self._work = None

    def take(self) -> bool:
        """Do the work; False if it was cancelled."""
        work, self._work = self._work, None
        if work is not None:
            work()
        return work is not None


class Turns:
    """A queue whose first one is served in each turn of the event loop.

    With a `call_soon` of its own for each, a turn would take the longer the more there are, and
    everything else that a start or an exit waits for would wait that long at each of its steps.
    """

    def __init__(self) -> None:
        self._waiting: deque[Turn] = deque()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def wait(self, work: Callable[[], object]) -> Turn:
        """Do `work` when all who wait have had their turn, and not before the loop had one."""
        turn = Turn(work)
        self._waiting.append(turn)
        self._schedule()
        return turn

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._scheduled = False
        while self._waiting and not self._waiting.popleft().take():
            continue
        self._schedule()
