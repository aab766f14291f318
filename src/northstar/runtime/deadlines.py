"""Deadlines of containers, or of updates: at most one timer for each."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from northstar.model.loop_deadline import Timer

K = TypeVar("K")

_NS: Final = 10**9


class Deadlines(Generic[K]):
    """Calls a function at the deadline of a key, such as a container.

    The clock of the event loop is CLOCK_MONOTONIC, as that of the core. Exits and messages that
    were pending at the deadline are processed before (`loop_deadline.Timer`): a runtime that was
    late must not treat them as missing.
    """

    def __init__(self, reached: Callable[[K], object]) -> None:
        """Call `reached` with each key whose deadline has come."""
        self._reached = reached
        self._loop = asyncio.get_running_loop()
        self._timers: dict[K, Timer] = {}

    def set(self, key: K, when: int | None) -> None:
        """Set the deadline of a key, or remove it; replaces an earlier one.

        Args:
            key: the container, or the name of an update.
            when: ns of CLOCK_MONOTONIC; None for no deadline.
        """
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if when is not None:
            seconds = max(when / _NS - self._loop.time(), 0.0)
            reached = functools.partial(self._expired, key)
            self._timers[key] = Timer(seconds, reached)

    def _expired(self, key: K) -> None:
        del self._timers[key]
        self._reached(key)
