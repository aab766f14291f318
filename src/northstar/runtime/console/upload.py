"""The raw bytes of a package on a connection, between the socket and whoever stores them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from northstar.deadline.loop import Timer
from northstar.runtime.console.memory import Packages

READ: Final = 256 * 1024
"""Bytes that are read from the socket at once, at most."""


class StreamEndedError(Exception):
    """The stream ended, or the connection was lost, before all bytes had come."""


class Upload:
    """Exactly `size` bytes: one side feeds them as they come, the other takes them in chunks."""

    def __init__(
        self, size: int, timeout: float, memory: Packages, regulate: Callable[[], object]
    ) -> None:
        """Prepare for `size` bytes.

        Args:
            size: all bytes of the package.
            timeout: longest time between two chunks, in seconds.
            memory: counts what waits here, until `close`.
            regulate: called when `room` may have become more.
        """
        self._missing = size
        self._timeout = timeout
        self._memory = memory
        self._regulate = regulate
        # What came at once is passed on as it is. What joins it makes an array and no list of
        # pieces: a peer may send bytes one by one.
        self._data: bytes | bytearray = b""
        self._storing = 0
        self._ended = False
        self._wakeup: asyncio.Future[None] | None = None
        memory.begin()

    @property
    def complete(self) -> bool:
        """All bytes were fed."""
        return not self._missing

    @property
    def room(self) -> int:
        """How many bytes may be read from the socket now; 0 when too much waits to be stored."""
        room = self._memory.room(self._storing + len(self._data))
        return min(self._missing, READ, room)

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the package; return what comes behind it."""
        mine, rest = data[: self._missing], data[self._missing :]
        if mine:
            self._missing -= len(mine)
            self._memory.add(len(mine))
            self._join(mine)
            self._wake()
        return rest

    def end(self) -> None:
        """No more bytes will come."""
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Forget what was not taken. To be called once."""
        self._memory.add(-self._storing - len(self._data))
        self._storing, self._data = 0, b""
        self._memory.end()

    def _join(self, data: bytes) -> None:
        if not self._data:
            self._data = data
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)
        self._data += data

    async def chunk(self) -> bytes:
        """Return the next bytes, empty after the last. The ones before are stored then.

        Raises:
            TimeoutError: nothing came for too long.
            StreamEndedError: what is missing will not come.
        """
        if self._storing:
            self._memory.add(-self._storing)
            self._storing = 0
            self._regulate()
        if not self._data and self._missing:
            if self._ended:
                raise StreamEndedError
            self._wakeup = asyncio.get_running_loop().create_future()
            # Only waiting for the peer counts, not the time that storing took.
            timer = Timer(self._timeout, self._expire)
            try:
                await self._wakeup
            finally:
                timer.cancel()
            return await self.chunk()
        data, self._data = bytes(self._data), b""  # of bytes, no copy
        self._storing = len(data)
        return data

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _expire(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_exception(TimeoutError())
