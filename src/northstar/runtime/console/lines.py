"""Splits the input of a connection into lines, at the rate that its limits allow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

from northstar.runtime.config import ConsoleOptions
from northstar.runtime.console.fair_queue import Entry, FairQueue
from northstar.runtime.console.memory import (
    ALLOWANCE,
    CONNECT_SIZE,
    EXECUTION,
    REQUEST,
    Memory,
    Reservation,
)
from northstar.runtime.ratelimit import SlidingWindow, TokenBucket

MIN_WAIT: Final = 0.01
"""Shortest wait, in seconds, of requests above the rate: it lets them pass in batches."""

BYTES_RATE: Final = 4.0 * 2**20
BYTES_BURST: Final = 4.0 * 2**20
"""Bytes of requests per second, and in a burst: a long request takes as much time as hundreds of
usual ones, which stay far below this limit. Requests above it wait; packages do not count."""


class LineTooLongError(Exception):
    """A line is longer than its limit; no more of it is read."""


class Lines:
    """The bytes that were read from a connection and not processed yet.

    Attributes:
        buffer: the bytes. Not a property: reading one would take longer than its use.
        waiting: the next line waits even if it is complete: for the rate limits, for its turn, or
            for the memory that its execution takes.
        ended: the stream has ended.
    """

    def __init__(
        self,
        options: ConsoleOptions,
        memory: Memory,
        queue: FairQueue,
        resume: Callable[[], object],
        refuse: Callable[[str], object],
    ) -> None:
        """Prepare for a connection before its connect message, which must be short.

        Args:
            options: the connection's limits.
            memory: shared with other connections.
            queue: the queue in which it waits for its turn.
            resume: called when a line may have stopped waiting, or `room` may have grown.
            refuse: called with the reason when the connection must be closed.
        """
        self._options = options
        self._memory = memory
        self._queue = queue
        self._resume = resume
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._rate = SlidingWindow(options.max_requests_per_sec)
        self._bytes = TokenBucket(BYTES_RATE, BYTES_BURST)
        self.buffer = bytearray()
        self._searched = 0
        self._limit = min(options.max_request_size, CONNECT_SIZE)
        # Maximum size of the buffer: a line and its newline.
        self._capacity = self._limit + 1
        self._connected = False
        self._line_memory: Reservation | None = None
        self._execution_memory: Reservation | None = None
        self._wait: asyncio.Handle | Entry | None = None
        self.waiting = False
        self.ended = False
        self.owner: Hashable = None
        """The owner of the connection; scarce memory is shared fairly among owners."""

    def connected(self) -> None:
        """Allow lines as long as the options say: the connect message was accepted."""
        self._connected = True
        self._limit = self._options.max_request_size
        self._capacity = ALLOWANCE

    def feed(self, data: bytes | memoryview) -> None:
        """Add bytes that were read."""
        self.buffer += data
        if self._line_memory is not None:
            self._line_memory.progress()

    def cut(self, size: int) -> bytes:
        """Remove and return up to `size` bytes: the start of the package after its request."""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def take(self, *, counted: bool = True) -> bytes | None:
        """Return the next line; None if there is none, or it waits.

        `done` must be called before the next call.

        Args:
            counted: whether it counts for the rate of requests; it always does for that of bytes.

        Raises:
            LineTooLongError: the connection must be closed.
        """
        buffer = self.buffer
        end = buffer.find(b"\n", self._searched)
        length = end if end >= 0 else len(buffer)
        if length > self._limit:
            raise LineTooLongError(f"a line is longer than {self._limit} bytes")
        if end < 0 and not (self.ended and buffer):
            self._searched = length
            return None
        if self._line_memory is not None:
            self._line_memory.complete()
        if length > REQUEST and self._connected and not self._may_execute(length):
            return None
        now = self._loop.time()
        delay = self._rate.delay(now) if counted else 0.0
        if delay > 0.0:
            self._pause(max(delay, MIN_WAIT))
            return None
        line = bytes(buffer[:length])
        del buffer[: length + 1]
        self._searched = 0
        delay = self._bytes.spend(length, now)
        if delay > 0.0:
            self._pause(delay)
        return line

    def admit(self, size: int) -> bool:
        """Count a line that was read alone, and is not in the buffer, for the rates.

        Args:
            size: in bytes, with its newline.

        Returns:
            False if it must wait, or is too long: then `feed` it.
        """
        length = size - 1
        if length > self._limit:
            return False
        now = self._loop.time()
        if self._rate.delay(now) > 0.0:
            return False
        delay = self._bytes.spend(length, now)
        if delay > 0.0:
            self._pause(delay)
        return True

    def count(self) -> None:
        """Count a line for the rate of requests that `take` did not count: later ones wait."""
        self._rate.delay(self._loop.time())

    def done(self) -> None:
        """Release the memory of the last line, which is answered."""
        if self._line_memory is not None:
            self._line_memory.release()
            self._line_memory = None
            self._capacity = ALLOWANCE
        # If it is not granted, the next line waits for it: a message of an exec in progress.
        if self._execution_memory is not None and self._execution_memory.granted:
            self._execution_memory.release()
            self._execution_memory = None

    def wait_for_turn(self) -> None:
        """Let other connections go first."""
        self.waiting = True
        self._wait = self._queue.wait(self._continue)

    def room(self) -> int:
        """Return how many bytes may be read now; 0 or less if none."""
        # A long line is read in pieces: bytes after it must be within the allowance.
        room = self._capacity - len(self.buffer)
        return min(room, ALLOWANCE)

    def reserve_line(self) -> None:
        """Reserve the memory of a long line whose beginning was read."""
        if self._line_memory is not None or not self._connected:
            return
        self._line_memory = self._memory.lines.reserve(
            self._limit, self.owner, self._read_on, self._line_is_late
        )
        if self._line_memory.granted:
            self._capacity = self._limit + 1

    def stop(self) -> None:
        """Drop the buffered bytes and stop waiting."""
        self.buffer.clear()
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        self.waiting = False

    def _may_execute(self, length: int) -> bool:
        if self._execution_memory is None:
            self._execution_memory = self._memory.requests.reserve(
                EXECUTION * length, self.owner, self._continue
            )
        self.waiting = not self._execution_memory.granted
        return not self.waiting

    def _pause(self, seconds: float) -> None:
        self.waiting = True
        self._wait = self._loop.call_later(seconds, self.wait_for_turn)

    def _continue(self) -> None:
        self._wait = None
        self.waiting = False
        self._resume()

    def _read_on(self) -> None:
        self._capacity = self._limit + 1
        self._resume()

    def _line_is_late(self) -> None:
        self._refuse("a long line is incomplete, and other connections wait for its memory")
