"""What a request exchanges with its client while it is executed, besides its answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from northstar.api.log import Log
from northstar.api.stream import ClientStream, Stream

INPUT_MAX: Final = 4
"""Messages of the client that wait to be processed; no more are read meanwhile."""


class Channel:
    """Messages of one request, in both directions. All methods run in the event loop's thread.

    Attributes:
        ended: the client has closed its end of the connection, or the connection has ended.
        reads: the request processes messages of the client. Else none may come before the answer.
    """

    def __init__(
        self,
        write: Callable[[Log | Stream], object],
        resume: Callable[[], object],
        *,
        reads: bool,
        release: Callable[[], object] = lambda: None,
    ) -> None:
        """Begin.

        Args:
            write: sends a message; must not block.
            resume: called when the client's next message may be given to `feed`.
            reads: whether the request processes messages of the client.
            release: called when the memory of the request is not used any more.
        """
        self._write = write
        self._resume = resume
        self._release = release
        self._input: deque[ClientStream] = deque()
        self._writable = asyncio.Event()
        self._writable.set()
        self._arrived = asyncio.Event()
        self._on_end: list[Callable[[], object]] = []
        self.reads = reads
        self.ended = False

    # Called by the request.

    def send(self, message: Log | Stream) -> None:
        """Send a message; dropped after the end of the connection. See `writable`."""
        self._write(message)

    @property
    def is_writable(self) -> bool:
        """Whether the client has read so much that the next message should be sent."""
        return self._writable.is_set()

    async def writable(self) -> None:
        """Wait until the client has read enough of what was sent, or the connection has ended."""
        await self._writable.wait()

    async def receive(self) -> ClientStream | None:
        """Return the client's next message; None if there will be none."""
        while not self._input:
            if self.ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._input.popleft()
        self._resume()
        return message

    def release_request(self) -> None:
        """The memory of the request is not used any more, though its answer may be hours away."""
        self._release()

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call a function when `ended` becomes true; at once if it is."""
        if self.ended:
            callback()
        else:
            self._on_end.append(callback)

    # Called by the connection.

    @property
    def is_full(self) -> bool:
        """Whether the client's next message must wait."""
        return len(self._input) >= INPUT_MAX

    def feed(self, message: ClientStream) -> None:
        """Take a message of the client."""
        self._input.append(message)
        self._arrived.set()

    def pause(self) -> None:
        """The client does not read."""
        self._writable.clear()

    def resume(self) -> None:
        """The client reads again."""
        self._writable.set()

    def end(self) -> None:
        """The client has closed its end; what it has sent before can be received. Idempotent."""
        if not self.ended:
            self.ended = True
            self._arrived.set()
            for callback in self._on_end:
                callback()

    def lost(self) -> None:
        """The connection has ended: nothing is sent any more. Idempotent."""
        self._input.clear()
        self.end()
        self._writable.set()
