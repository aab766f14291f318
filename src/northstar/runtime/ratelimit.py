"""Limits of the work per second that a connection or a container may cause."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 1.0
"""Seconds over which messages are counted. A sliding window allows no double burst at an edge."""


class SlidingWindow:
    """At most `limit` messages in any window. The caller provides the time, and waits."""

    __slots__ = ("_limit", "_times")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Times of the messages in the current window: at most `limit`.
        self._times: deque[float] = deque()

    def delay(self, now: float) -> float:
        """Return 0.0 and count a message, or return the seconds to wait before the next call.

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


class TokenBucket:
    """A rate limit on an amount, such as bytes: overspending has to be waited for.

    Unlike with a `SlidingWindow`, the amount is known only after it is spent.
    """

    __slots__ = ("_burst", "_left", "_rate", "_then")

    def __init__(self, rate: float, burst: float) -> None:
        """Allow `rate` per second, and at most `burst` at once."""
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._then: float | None = None

    def left(self, now: float) -> float:
        """Return the amount that may be spent now without waiting."""
        elapsed = 0.0 if self._then is None else now - self._then
        return min(self._burst, self._left + elapsed * self._rate)

    def spend(self, amount: float, now: float) -> float:
        """Spend, and return the seconds to wait before spending more.

        Args:
            amount: what was spent since the last call.
            now: seconds of a monotonic clock.
        """
        self._left = self.left(now) - amount
        self._then = now
        return max(0.0, -self._left / self._rate)
