"""The raw bytes of a package on a connection, between the socket and whoever stores them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

BUFFER: Final = 2**20
"""Bytes that may wait to be stored; with more the socket is not read."""


class StreamEndedError(Exception):
    """The stream ended, or the connection was lost, before all bytes had come."""


class Upload:
    """Exactly `size` bytes: one side feeds them as they come, the other takes them in chunks."""

    def __init__(self, size: int, timeout: float, throttle: Callable[[bool], object]) -> None:
        """Prepare for `size` bytes.

        Args:
            size: all bytes of the package.
            timeout: longest time between two chunks, in seconds.
            throttle: called with True when too much waits here, with False when there is room.
        """
        self._missing = size
        self._timeout = timeout
        self._throttle = throttle
        self._throttled = False
        # What came at once is passed on as it is. What joins it makes an array and no list of
        # pieces: a peer may send bytes one by one.
        self._data: bytes | bytearray = b""
        self._ended = False
        self._wakeup: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """All bytes were fed."""
        return not self._missing

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the package; return what comes behind it."""
        mine, rest = data[: self._missing], data[self._missing :]
        if mine:
            self._missing -= len(mine)
            self._join(mine)
            if len(self._data) >= BUFFER and not self._throttled:
                self._throttled = True
                self._throttle(True)
            self._wake()
        return rest

    def end(self) -> None:
        """No more bytes will come."""
        self._ended = True
        self._wake()

    def _join(self, data: bytes) -> None:
        if not self._data:
            self._data = data
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)
        self._data += data

    async def chunk(self) -> bytes:
        """Return the next bytes, empty after the last.

        Raises:
            TimeoutError: nothing came for too long.
            StreamEndedError: what is missing will not come.
        """
        if not self._data and self._missing:
            if self._ended:
                raise StreamEndedError
            # Only waiting for the peer counts, not the time that storing took.
            async with asyncio.timeout(self._timeout):
                self._wakeup = asyncio.get_running_loop().create_future()
                await self._wakeup
            return await self.chunk()
        data, self._data = bytes(self._data), b""  # of bytes, no copy
        if self._throttled:
            self._throttled = False
            self._throttle(False)
        return data

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
