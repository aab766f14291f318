"""Output of debug commands: read from a pipe in the event loop, with the limits of stdio.py.

A command that prints too much is not read for a while. The pipe fills and it waits, like any
program whose output is read slowly.
"""

from __future__ import annotations

import asyncio
import os

from northstar.runtime import stdio
from northstar.runtime.ratelimit import TokenBucket


class PipeOutput:
    """Moves bytes from a pipe to a sink, and closes at the end of the stream."""

    def __init__(self, descriptor: int, sink: stdio.Sink) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(stdio.RATE, stdio.RATE)
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.ended = False
        """The pipe is closed, and the sink has received all bytes that were read."""
        self._loop.add_reader(descriptor, self._readable)

    def close(self) -> None:
        """Pass on the remaining bytes of an ended writer, then close the pipe. Idempotent.

        Usually this is complete on return. Many bytes are passed on in steps later, so that they do
        not delay other containers.
        """
        if self._closing:
            return
        # Bounded: another process may hold the write end, for example a debug command.
        left = stdio.DRAIN_MAX
        while left > 0 and (data := self._read()):
            self._sink.feed(data)
            left -= len(data)
        self._sink.trim()
        self._finish(stdio.STEPS_AT_CLOSE)

    def _readable(self) -> None:
        data = self._read()
        if data:
            self._sink.feed(data)
            self._schedule(self._step())
        elif data is not None:
            self._finish(1)

    def _finish(self, steps: int) -> None:
        """Stop reading; pass on what was read, in `steps` steps now and more later."""
        self._closing = True
        self._pause()
        while steps and not self.ended:
            self._step()
            steps -= 1
        self._schedule(0.0)

    def _pump(self) -> None:
        self._timer = None
        self._schedule(self._step())

    def _schedule(self, delay: float | None) -> None:
        """Schedule the next step after `delay` seconds; None waits for input."""
        if self.ended:
            return
        if delay is None:
            try:
                self._loop.add_reader(self._descriptor, self._readable)
            except OSError:
                # After a pause epoll_ctl(2) adds the pipe again, and may fail for lack of memory.
                delay = stdio.BACKLOG_PAUSE
            else:
                return
        self._pause()
        self._timer = self._loop.call_later(delay, self._pump)

    def _pause(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step(self) -> float | None:
        """Do one step; return the seconds until the next one, or None to wait for input."""
        cost, more = self._sink.step()
        if self._closing:
            if not more:
                self._end()
            return 0.0
        now = self._loop.time()
        delay = max(self._bucket.spend(cost, now), stdio.total_bucket.spend(cost, now))
        if self._sink.backlog() > stdio.BACKLOG_MAX:
            delay = max(delay, stdio.BACKLOG_PAUSE)
        return delay if delay or more else None

    def _read(self) -> bytes | None:
        """Return bytes, empty at the end of the stream, None if there is nothing now."""
        try:
            return os.read(self._descriptor, stdio.CHUNK)
        except BlockingIOError:
            return None

    def _end(self) -> None:
        self._pause()
        self._sink.finish()
        os.close(self._descriptor)
        self.ended = True
