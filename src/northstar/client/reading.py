"""Requests for the output of a container, of both clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from northstar.api import request
from northstar.api.log import LogStream
from northstar.model import Container, InvalidValueError

BOTH: Final = (LogStream.STDOUT, LogStream.STDERR)
"""All streams."""

UNREAD_MAX: Final = 1000
"""Messages of a log that the asyncio client keeps before it stops to read."""


def message(
    container: Container,
    *,
    follow: bool,
    since: float | None,
    lines: int | None,
    cursor: str | None,
    streams: Iterable[LogStream],
) -> request.Logs:
    """Return the request; see `Client.logs`.

    Raises:
        InvalidValueError: `since` or `lines` is negative, or there are no streams.
    """
    if since is not None and not since >= 0:
        raise InvalidValueError(f"since={since!r} is not a number of seconds")
    if lines is not None and lines < 0:
        raise InvalidValueError(f"lines={lines!r} is not a number of lines")
    wanted = tuple(dict.fromkeys(streams))
    if not wanted:
        raise InvalidValueError("a log of no stream", hint="name stdout, stderr, or both")
    # Longer than any device runs; infinity too.
    nanoseconds = None if since is None else round(min(since, 2**33) * 1e9)
    return request.Logs(container, follow, nanoseconds, lines, cursor, wanted)
