"""How many messages a connection may send in a second."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 1.0
"""Seconds over which messages are counted. The window slides: it has no edges to burst at."""


class RateLimit:
    """At most `limit` messages in any window. The caller brings the time, and does the waiting."""

    __slots__ = ("_limit", "_times")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Times of the messages in the current window: bounded by what was let through in a second.
        self._times: deque[float] = deque()

    def delay(self, now: float) -> float:
        """Return 0.0 and count a message, or return the seconds to wait before asking again.

        Args:
            now: seconds of a monotonic clock.
        """
        times = self._times
        while times and now - times[0] >= WINDOW:
            times.popleft()
        if len(times) < self._limit:
            times.append(now)
            return 0.0
        return WINDOW - (now - times[0])
