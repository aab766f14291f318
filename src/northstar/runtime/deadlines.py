"""The deadlines of containers: at most one timer for each."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Final

from northstar.model import Container
from northstar.model.loop_deadline import Timer

_NS: Final = 10**9


class Deadlines:
    """Calls a function at the deadline of a container.

    The clock of the event loop is CLOCK_MONOTONIC, as that of the core. Exits and messages that
    were pending at the deadline are processed before (`loop_deadline.Timer`): a runtime that was
    late must not treat them as missing.
    """

    def __init__(self, reached: Callable[[Container], object]) -> None:
        """Call `reached` with each container whose deadline has come."""
        self._reached = reached
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Container, Timer] = {}

    def set(self, container: Container, when: int | None) -> None:
        """Set the deadline of a container, or remove it; replaces an earlier one.

        Args:
            container: the container.
            when: ns of CLOCK_MONOTONIC; None for no deadline.
        """
        timer = self._timers.pop(container, None)
        if timer is not None:
            timer.cancel()
        if when is not None:
            seconds = max(when / _NS - self._loop.time(), 0.0)
            reached = functools.partial(self._expired, container)
            self._timers[container] = Timer(seconds, reached)

    def _expired(self, container: Container) -> None:
        del self._timers[container]
        self._reached(container)
