"""Deadlines in the event loop: see `northstar.model.deadline`.

When its epoll_wait(2) was interrupted, the event loop of asyncio runs expired timers before it
checks the descriptors. And a timeout cancels a task even if the future that the task awaits was
set in the same pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, TypeVar

PASSES: Final = 4
"""Passes of the event loop between the deadline and its expiry. In them bytes are read, a future is
set, the task that awaits it runs, and the callbacks that the task has scheduled run."""

F = TypeVar("F", bound="asyncio.Future[Any]")


class Timer:
    """Calls a function after some seconds, unless it is cancelled before.

    An event that was pending at the deadline can still cancel it: bytes that are in a socket are
    read before the function is called.
    """

    __slots__ = ("_expired", "_handle", "_loop", "_seconds", "_when")

    def __init__(self, seconds: float, expired: Callable[[], object]) -> None:
        """Start. `expired` is called once, in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._expired = expired
        self._when = self._loop.time() + seconds
        self._handle: asyncio.Handle | None = self._loop.call_at(self._when, self._reached)

    def cancel(self) -> None:
        """Never call the function; idempotent."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _reached(self) -> None:
        late = max(self._loop.time() - self._when, 0.0)
        self._handle = self._loop.call_later(min(late, self._seconds), self._look, PASSES)

    def _look(self, passes: int) -> None:
        if passes:
            self._handle = self._loop.call_soon(self._look, passes - 1)
        else:
            self._handle = None
            self._expired()


@contextlib.asynccontextmanager
async def timeout(seconds: float | None) -> AsyncIterator[None]:
    """Limit the time of the body, as asyncio.timeout does; None is no limit.

    Raises:
        TimeoutError: the body was not done, and no event for it was pending.
    """
    async with asyncio.timeout(None) as scope:
        if seconds is None:
            yield
            return
        loop = asyncio.get_running_loop()
        timer = Timer(seconds, lambda: scope.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()


async def wait(futures: Iterable[F], seconds: float) -> tuple[set[F], set[F]]:
    """Wait until all futures are done, as asyncio.wait does. Return the done and the pending ones.

    Args:
        futures: futures or tasks; they are not cancelled.
        seconds: longest time to wait.
    """
    waited = set(futures)
    if waited:
        # asyncio.wait does not raise a future's TimeoutError: a future that fails is done.
        with contextlib.suppress(TimeoutError):
            async with timeout(seconds):
                await asyncio.wait(waited)
    done = {future for future in waited if future.done()}
    return done, waited - done
