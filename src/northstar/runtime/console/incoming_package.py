"""A package that comes in over a connection: its bytes, from the socket into the storage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from northstar.api.error import Error
from northstar.model import Container
from northstar.model.loop_deadline import Timer
from northstar.runtime.console.memory import Packages
from northstar.runtime.package_writer import PackageWriter

READ: Final = 256 * 1024
"""Bytes that are read from the socket at once, at most."""


class StreamEndedError(Exception):
    """The stream ended, or the connection was lost, before all bytes had come."""


class StreamTimeoutError(Exception):
    """No byte came for too long."""


class IncomingPackage:
    """Exactly `size` bytes: a connection feeds them as they come, `store` or `discard` takes them.

    All bytes are taken, whatever fails, so that the next request is seen as one.
    """

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

    # The side of the socket -----------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Bytes that have not been fed."""
        return self._missing

    @property
    def room(self) -> int:
        """How many bytes may be read from the socket now; 0 when too much waits to be stored."""
        room = self._memory.room(self._storing + len(self._data))
        return min(self._missing, READ, room)

    def feed(self, data: bytes) -> None:
        """Take bytes that were read, no more than are missing."""
        if not data:
            return
        self._missing -= len(data)
        self._memory.add(len(data))
        if not self._data:
            self._data = data
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += data
        self._wake()

    def end(self) -> None:
        """No more bytes will come."""
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Forget what was not taken. To be called once."""
        self._memory.add(-self._storing - len(self._data))
        self._storing, self._data = 0, b""
        self._memory.end()

    # The side of the storage ----------------------------------------------------------------

    async def store(
        self,
        begin: Callable[[], Awaitable[PackageWriter]],
        explain: Callable[[Exception], Error],
    ) -> Container | Error:
        """Store the package; return the container that it is, or why it could not be stored.

        Args:
            begin: makes what stores it.
            explain: called at once with the first failure of the storage.

        Raises:
            StreamTimeoutError, StreamEndedError: it did not come as a whole. Nothing of it is left.
        """
        writer: PackageWriter | None = None
        result: Container | Error | None = None
        try:
            try:
                writer = await begin()
            except Exception as failure:
                result = explain(failure)
            while chunk := await self._chunk():
                if writer is None or result is not None:
                    continue
                try:
                    await writer.write(chunk)
                except Exception as failure:
                    result = explain(failure)
                    # What came is of no use: give its space back before the rest has come.
                    await writer.abort()
            if writer is not None and result is None:
                try:
                    result = await writer.commit()
                except Exception as failure:
                    result = explain(failure)
        finally:
            if writer is not None and not isinstance(result, Container):
                await writer.abort()
        assert result is not None
        return result

    async def discard(self) -> None:
        """Take all bytes, and store none.

        Raises:
            StreamTimeoutError, StreamEndedError: it did not come as a whole.
        """
        while await self._chunk():
            pass

    async def _chunk(self) -> bytes:
        """Return the next bytes, empty after the last. The ones before are stored then."""
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
            return await self._chunk()
        data, self._data = bytes(self._data), b""  # of bytes, no copy
        self._storing = len(data)
        return data

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _expire(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_exception(StreamTimeoutError())
