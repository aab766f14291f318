"""The pace of automatic restarts: a limit for all containers together.

The delays of a manifest may be short, and many containers may fail at the same time, for the same
reason. A start occupies the machine for some milliseconds. Without a limit crash loops would take
all of it, and each start request would wait behind them.

The limit is a token bucket, in the form of the generic cell rate algorithm: a restart that must
wait gets its time at once, so nothing is tried twice, and the order is that of the ends of the
delays.
"""

from __future__ import annotations

from typing import Final

RESTARTS_PER_SECOND: Final = 10
"""At about 10 ms for one restart, with its clean-up, this is a tenth of a processor."""

BURST: Final = 50
"""Restarts without a wait. An outage that ends many containers at once costs no time."""

INTERVAL: Final = 10**9 // RESTARTS_PER_SECOND
"""Nanoseconds between two restarts once the burst is used up."""


def reserve(paced: int, now: int) -> tuple[int, int]:
    """Reserve the time of a restart.

    Args:
        paced: the value that the last reservation has returned; 0 before the first.
        now: ns of CLOCK_MONOTONIC.

    Returns:
        When the restart may begin, not before `now`; and the value for the next reservation: when
        the bucket will be full.
    """
    full = max(paced, now)
    return max(now, full - (BURST - 1) * INTERVAL), full + INTERVAL
