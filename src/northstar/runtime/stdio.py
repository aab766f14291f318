"""Output of containers: read from pipes in the event loop, to the log or the runtime's output.

A container may print any bytes, at any rate. So the length of a line and the duration of a step are
bounded, and the pipe of a container that prints too much is not read for a while. The pipe fills
and the container waits, like any program whose output is read slowly.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final, Protocol

from northstar.manifest import Output
from northstar.model import Container, printable
from northstar.runtime import logs, writer
from northstar.runtime.ratelimit import TokenBucket

LINE_MAX: Final = 4096
"""Longest line in bytes; a longer one is split."""

CHUNK: Final = 16 * 1024
"""Maximum bytes of one read."""

LINES_PER_STEP: Final = 64
"""Most lines that are logged without returning to the event loop: about a millisecond."""

LINE_COST: Final = 500
"""Cost of a line besides its bytes, in bytes: each log call has a fixed cost."""

ESCAPE_COST: Final = 30
"""Cost of each character that escaping adds: a `\\x1b` takes as long as a hundred plain ones."""

STEP_COST: Final = 64 * 1024
"""Cost after which a step ends, exceeded by one line at most: binary data is slower than text."""

RATE: Final = 2**20
"""Bytes per second of one pipe, including line costs; also the largest burst."""

TOTAL_RATE: Final = 2 * 2**20
"""The same for all pipes together: 4000 short lines per second, some percent of a processor."""

BACKLOG_MAX: Final = writer.LIMIT // 2
"""Buffered bytes above which containers are not read; the other half is for the runtime's lines."""

BACKLOG_PAUSE: Final = 0.05
"""Seconds until the backlog is checked again."""

DRAIN_MAX: Final = 2**20
"""Most bytes that are read after the container's end: the default maximum size of a pipe."""

DRAIN_LINES: Final = 1024
"""Most lines of these that are logged. The last ones are kept: they explain why it ended."""

DRAIN_KEPT: Final = 128 * 1024
"""Most bytes of these that are logged: binary data takes longer than text."""

STEPS_AT_CLOSE: Final = 8
"""Steps of `OutputPipe.close` before it returns: enough for the remaining output of most."""

_total_bucket: Final = TokenBucket(TOTAL_RATE, TOTAL_RATE)


class Sink(Protocol):
    """The destination of the bytes of a pipe."""

    def feed(self, data: bytes) -> None:
        """Take bytes."""

    def step(self) -> tuple[int, bool]:
        """Pass on a bounded part of the bytes; return its cost and whether more bytes remain."""

    def finish(self) -> None:
        """Pass on an incomplete line."""

    def trim(self) -> None:
        """Drop bytes that would take too long to pass on: the container cannot wait any more."""

    def backlog(self) -> int:
        """Return the number of bytes that wait to be written."""


class LineSink:
    """Logs each line under a container's name."""

    def __init__(self, container: Container, level: int = logging.DEBUG) -> None:
        self._log = logs.ContainerLog(container)
        self._level = level
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._buffer += data

    def step(self) -> tuple[int, bool]:
        """Log some lines."""
        cost = 0
        enabled = self._log.enabled(self._level)
        for _ in range(LINES_PER_STEP):
            # The line end may follow a line of maximum length.
            end = self._buffer.find(b"\n", 0, LINE_MAX + 1)
            if end < 0 and len(self._buffer) <= LINE_MAX:
                return cost, False
            split = end < 0
            length = _boundary(self._buffer) if split else end
            if enabled:
                line = self._buffer[:length]
                cost += self._emit(line if split else line.removesuffix(b"\r"))
            del self._buffer[: length if split else length + 1]
            cost += length + LINE_COST
            if cost >= STEP_COST:
                break
        return cost, True

    def finish(self) -> None:
        """Log a last line without line end."""
        if self._buffer:
            self._emit(self._buffer)
            self._buffer.clear()

    def trim(self) -> None:
        """Keep the last lines, and log how much was dropped."""
        start = len(self._buffer)
        for _ in range(DRAIN_LINES + 1):
            start = self._buffer.rfind(b"\n", 0, start)
            if start < 0:
                break
        dropped = max(start + 1, len(self._buffer) - DRAIN_KEPT)
        if not dropped:
            return
        del self._buffer[:dropped]
        self._log.log(self._level, "(%d bytes of its output are left out here)", dropped)

    def backlog(self) -> int:
        """Return the number of bytes that wait for stderr."""
        return writer.shared(2).backlog

    def _emit(self, line: bytearray) -> int:
        """Log a line; return the cost of escaping it."""
        text = line.decode(errors="backslashreplace")
        self._log.log(self._level, "%s", text)
        return max(0, len(printable(text)) - len(line)) * ESCAPE_COST


def _boundary(buffer: bytearray) -> int:
    """Return where to split a line that is too long: not inside a UTF-8 character."""
    for length in range(LINE_MAX, LINE_MAX - 4, -1):
        if buffer[length] & 0xC0 != 0x80:
            return length
    return LINE_MAX


class CopySink:
    """Copies bytes unchanged to the runtime's stdout or stderr."""

    def __init__(self, out: writer.Writer) -> None:
        self._out = out
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._buffer += data

    def step(self) -> tuple[int, bool]:
        """Write some bytes."""
        # In chunks: a write that exceeds the writer's limit is lost as a whole.
        data = bytes(self._buffer[:CHUNK])
        del self._buffer[:CHUNK]
        self._out.write(data)
        return len(data), bool(self._buffer)

    def finish(self) -> None:
        """Do nothing: bytes are never incomplete."""

    def trim(self) -> None:
        """Do nothing: copying bytes is fast."""

    def backlog(self) -> int:
        """Return the number of bytes that wait for the descriptor."""
        return self._out.backlog


def open_output(descriptor: int, container: Container, name: str, output: Output) -> OutputPipe:
    """Begin to read the output of a container.

    Args:
        descriptor: the pipe's read end, owned by the result.
        container: the container that prints.
        name: `stdout` or `stderr`.
        output: pipe (to the log) or inherit (to the runtime's output).
    """
    sink: Sink = LineSink(container)
    if output is Output.INHERIT:
        sink = CopySink(writer.shared(1 if name == "stdout" else 2))
    try:
        return OutputPipe(descriptor, sink)
    except BaseException:
        os.close(descriptor)
        raise


class OutputPipe:
    """Moves bytes from a pipe to a sink, and closes at the end of the stream."""

    def __init__(self, descriptor: int, sink: Sink) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(RATE, RATE)
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.ended = False
        """The pipe is closed, and the sink has received all bytes that were read."""
        self._loop.add_reader(descriptor, self._readable)

    def close(self) -> None:
        """Pass on the remaining bytes of an ended container, then close the pipe. Idempotent.

        Usually this is complete on return. Many bytes are passed on in steps later, so that they do
        not delay other containers.
        """
        if self._closing:
            return
        # Bounded: another process may hold the write end, for example a debug command.
        left = DRAIN_MAX
        while left > 0 and (data := self._read()):
            self._sink.feed(data)
            left -= len(data)
        self._sink.trim()
        self._finish(STEPS_AT_CLOSE)

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
                delay = BACKLOG_PAUSE
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
        delay = max(self._bucket.spend(cost, now), _total_bucket.spend(cost, now))
        if self._sink.backlog() > BACKLOG_MAX:
            delay = max(delay, BACKLOG_PAUSE)
        return delay if delay or more else None

    def _read(self) -> bytes | None:
        """Return bytes, empty at the end of the stream, None if there is nothing now."""
        try:
            return os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return None

    def _end(self) -> None:
        self._pause()
        self._sink.finish()
        os.close(self._descriptor)
        self.ended = True
