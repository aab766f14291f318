"""Waits for the eventfds that inits write when a reader of their output waits: the bells.

A payload with CAP_SYS_PTRACE controls init, and so its duplicate of the eventfd: it may make it
blocking (the flag belongs to the open file description, which both share), and write to it all the
time. So a bell is never read: it is watched by its edges, which epoll(7) reports for each write
without a read. And all bells together are looked at once in `INTERVAL`.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Final

from northstar.linux.descriptor import Closing

log = logging.getLogger("northstar.runtime")

INTERVAL: Final = 0.02
"""Seconds between two looks."""

_RETRY: Final = 1.0
"""Seconds until the event loop is asked again, after it could not watch."""


class Bells(Closing):
    """The bells that someone waits for, in the event loop of the first `add`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung: dict[int, Callable[[], None]] = {}
        self._pause: asyncio.TimerHandle | None = None

    def add(self, bell: int, rung: Callable[[], None]) -> None:
        """Call `rung` from now on after the eventfd was written, at once if it was before.

        Raises:
            OSError: it cannot be watched, epoll_ctl(2): ENOMEM, ENOSPC.
        """
        if self._loop is None:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._epoll.fileno(), self._look)
            self._loop = loop
        self._epoll.register(bell, select.EPOLLIN | select.EPOLLET)
        self._rung[bell] = rung

    def remove(self, bell: int) -> None:
        """Stop watching an eventfd that is still open; one that is not watched is no error."""
        if self._rung.pop(bell, None) is not None:
            self._epoll.unregister(bell)

    def close(self) -> None:
        """Stop watching all of them; idempotent."""
        if self._epoll.closed:
            return
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._rung.clear()

    def _look(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._epoll.fileno())
        self._pause = self._loop.call_later(INTERVAL, self._resume)
        for bell, _ in self._epoll.poll(0):
            rung = self._rung.get(bell)
            if rung is not None:
                rung()

    def _resume(self) -> None:
        assert self._loop is not None
        self._pause = None
        try:
            self._loop.add_reader(self._epoll.fileno(), self._look)
        except OSError as failure:
            log.warning("Cannot watch for output of containers: %s", failure.strerror)
            self._pause = self._loop.call_later(_RETRY, self._resume)
