"""A package that is received on a connection: its bytes, from the socket to the storage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from northstar.model.loop_deadline import Timer
from northstar.runtime.console.memory import Packages
from northstar.runtime.package_writer import IncomingWriter

T = TypeVar("T")
R = TypeVar("R")

READ: Final = 256 * 1024
"""Maximum bytes of one read from the socket."""


class StreamEndedError(Exception):
    """The stream ended, or the connection was lost, before all bytes were received."""


class StreamTimeoutError(Exception):
    """No byte was received within the timeout."""


class IncomingPackage:
    """Exactly `size` bytes: a connection feeds them, `store` or `discard` consumes them.

    All bytes are consumed even after a failure, so that the next request begins at its first byte.
    """

    def __init__(
        self, size: int, timeout: float, memory: Packages, regulate: Callable[[], object]
    ) -> None:
        """Prepare for `size` bytes.

        Args:
            size: of the package, in bytes.
            timeout: longest time between two chunks, in seconds.
            memory: counts the buffered bytes, until `close`.
            regulate: called when `room` may have grown.
        """
        self._missing = size
        self._timeout = timeout
        self._memory = memory
        self._regulate = regulate
        # The first bytes are passed on without a copy. More bytes make it a bytearray, not a list
        # of pieces: a peer may send single bytes.
        self._data: bytes | bytearray = b""
        self._storing = 0
        self._ended = False
        self._closed = False
        self._wakeup: asyncio.Future[None] | None = None
        memory.begin()

    # Called by the connection ---------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Bytes that have not been received."""
        return self._missing

    @property
    def room(self) -> int:
        """Bytes that may be read from the socket now; 0 if too many wait to be stored."""
        room = self._memory.room(self._storing + len(self._data))
        return min(self._missing, READ, room)

    def feed(self, data: bytes) -> None:
        """Add received bytes, at most `missing`."""
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
        """Note the end of the stream: no more bytes follow."""
        self._ended = True
        self._wake()

    def close(self) -> None:
        """Drop the bytes that were not consumed. Must be called; idempotent."""
        self._memory.add(-self._storing - len(self._data))
        self._storing, self._data = 0, b""
        if not self._closed:
            self._closed = True
            self._memory.end()

    # Called by the storage ------------------------------------------------------------------

    async def store(
        self,
        begin: Callable[[], Awaitable[IncomingWriter[T]]],
        explain: Callable[[Exception], R],
    ) -> T | R:
        """Store the package; return the result of its writer, or of the failure.

        Args:
            begin: makes the writer.
            explain: called at once with the first failure of the storage.

        Raises:
            StreamTimeoutError, StreamEndedError: it is incomplete. Nothing of it is kept.
        """
        writer: IncomingWriter[T] | None = None
        failed: list[R] = []
        committed = False
        try:
            try:
                writer = await begin()
            except Exception as failure:
                failed.append(explain(failure))
            while chunk := await self._chunk():
                if writer is None or failed:
                    continue
                try:
                    await writer.write(chunk)
                except Exception as failure:
                    failed.append(explain(failure))
                    # Free the space of the stored bytes before the remaining ones are received.
                    await writer.abort()
            # What follows may take minutes, and buffers nothing.
            self.close()
            if writer is not None and not failed:
                try:
                    result = await writer.commit()
                    committed = True
                    return result
                except Exception as failure:
                    failed.append(explain(failure))
        finally:
            if writer is not None and not committed:
                await writer.abort()
        return failed[0]

    async def discard(self) -> None:
        """Read all bytes, and store none.

        Raises:
            StreamTimeoutError, StreamEndedError: the package is incomplete.
        """
        while await self._chunk():
            pass

    async def _chunk(self) -> bytes:
        """Return the next bytes, empty after the last. The previous ones count as stored."""
        if self._storing:
            self._memory.add(-self._storing)
            self._storing = 0
            self._regulate()
        if not self._data and self._missing:
            if self._ended:
                raise StreamEndedError
            self._wakeup = asyncio.get_running_loop().create_future()
            # The timeout covers waiting for the peer, not storing.
            timer = Timer(self._timeout, self._expire)
            try:
                await self._wakeup
            finally:
                timer.cancel()
            return await self._chunk()
        data, self._data = bytes(self._data), b""  # bytes(bytes) makes no copy
        self._storing = len(data)
        return data

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _expire(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_exception(StreamTimeoutError())
