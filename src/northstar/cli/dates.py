"""Dates in output."""

from __future__ import annotations

import time


def date(nanoseconds: int) -> str:
    """Return a time (ns since 1970) in UTC, in ms: `2026-12-01T09:30:00.123Z`."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 10**6:03}Z"
