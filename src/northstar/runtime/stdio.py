"""What containers print: read from pipes in the event loop, into the log or to our own output.

A container may print anything, at any speed. So a line has a longest length, a step takes a
bounded time, and who prints too much is not read for a while: its pipe fills and it waits, as
any program does whose output is read slowly.
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
"""Most bytes of one read."""

LINES_PER_STEP: Final = 64
"""Most lines that are logged before the event loop has its turn: about a millisecond."""

LINE_COST: Final = 500
"""What a line costs beyond its bytes, in bytes: logging has a price per line."""

ESCAPE_COST: Final = 30
"""What each character costs that escaping adds: a `\\x1b` takes as long as a hundred plain ones."""

STEP_COST: Final = 64 * 1024
"""What a step costs, at most one line more: bytes that are no text take longer than lines of it."""

RATE: Final = 2**20
"""Bytes a second of one pipe, costs of lines included; and how much may come at once."""

TOTAL_RATE: Final = 2 * 2**20
"""The same of all pipes together: 4000 short lines a second, some percent of a processor."""

BACKLOG_MAX: Final = writer.LIMIT // 2
"""Bytes that wait to be written from which on containers wait; the rest is the runtime's own."""

BACKLOG_PAUSE: Final = 0.05
"""Seconds until it is looked at again."""

DRAIN_MAX: Final = 2**20
"""Bytes that are read after the container's end: the largest size of a pipe, by default."""

DRAIN_LINES: Final = 1024
"""Lines of those that are logged, the last ones: what a program says last says why it ended."""

DRAIN_KEPT: Final = 128 * 1024
"""Bytes of those that are logged at most: they may be no text, which takes longer."""

STEPS_AT_CLOSE: Final = 8
"""Steps that `OutputPipe.close` does before it returns: enough for what most leave behind."""

_total: Final = TokenBucket(TOTAL_RATE, TOTAL_RATE)


class Sink(Protocol):
    """Where the bytes of a pipe go."""

    def feed(self, data: bytes) -> None:
        """Take bytes."""

    def step(self) -> tuple[int, bool]:
        """Pass on a bounded part of what was fed; return its cost and whether more is there."""

    def finish(self) -> None:
        """Pass on what is incomplete."""

    def trim(self) -> None:
        """Drop what would take too long to pass on, now that nobody can be made to wait."""

    def backlog(self) -> int:
        """Return the bytes that wait behind the sink."""


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
            # A line end may stand right behind the longest line.
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
        """Log a last line that has no end."""
        if self._buffer:
            self._emit(self._buffer)
            self._buffer.clear()

    def trim(self) -> None:
        """Keep the last lines, and say what was dropped."""
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
        """Return the bytes that wait for stderr."""
        return writer.shared(2).backlog

    def _emit(self, line: bytearray) -> int:
        """Log a line; return what escaping it has cost."""
        text = line.decode(errors="backslashreplace")
        self._log.log(self._level, "%s", text)
        return max(0, len(printable(text)) - len(line)) * ESCAPE_COST


def _boundary(buffer: bytearray) -> int:
    """Return where to split a line that is too long: not within a character of UTF-8."""
    for length in range(LINE_MAX, LINE_MAX - 4, -1):
        if buffer[length] & 0xC0 != 0x80:
            return length
    return LINE_MAX


class CopySink:
    """Copies bytes as they are to the runtime's own stdout or stderr."""

    def __init__(self, out: writer.Writer) -> None:
        self._out = out
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._buffer += data

    def step(self) -> tuple[int, bool]:
        """Write some."""
        # In pieces: what the writer has no room for it loses as a whole.
        data = bytes(self._buffer[:CHUNK])
        del self._buffer[:CHUNK]
        self._out.write(data)
        return len(data), bool(self._buffer)

    def finish(self) -> None:
        """Do nothing: bytes are never incomplete."""

    def trim(self) -> None:
        """Do nothing: to copy bytes takes no time."""

    def backlog(self) -> int:
        """Return the bytes that wait for the descriptor."""
        return self._out.backlog


def open_output(descriptor: int, container: Container, name: str, output: Output) -> OutputPipe:
    """Begin to read what a container prints.

    Args:
        descriptor: the pipe's reading end; it is the result's from now on.
        container: who prints.
        name: `stdout` or `stderr`.
        output: pipe (to the log) or inherit (to our own).
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
    """Moves bytes from a pipe to a sink, and ends by itself at the end of the stream."""

    def __init__(self, descriptor: int, sink: Sink) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._budget = TokenBucket(RATE, RATE)
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.ended = False
        """The pipe is closed, and all that was read has gone to the sink."""
        self._loop.add_reader(descriptor, self._readable)

    def close(self) -> None:
        """The container is gone: pass on what is left in the pipe, then close it. Idempotent.

        Usually that is done on return. Much that is left is passed on bit by bit later, or a
        container that ends could hold up all others.
        """
        if self._closing:
            return
        # Bounded, since somebody else may hold the other end: a debug command, say.
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
            self._arrange(self._step())
        elif data is not None:
            self._finish(1)

    def _finish(self, steps: int) -> None:
        """Read no more; pass on what was read, `steps` of it at once."""
        self._closing = True
        self._pause()
        while steps and not self.ended:
            self._step()
            steps -= 1
        self._arrange(0.0)

    def _pump(self) -> None:
        self._timer = None
        self._arrange(self._step())

    def _arrange(self, delay: float | None) -> None:
        """Do the next step after some seconds; None: when there is something to read."""
        if self.ended:
            return
        if delay is None:
            try:
                self._loop.add_reader(self._descriptor, self._readable)
            except OSError:
                # After a pause epoll_ctl(2) adds the pipe anew, and may have no room for it now.
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
        """Do a bounded piece of work; return the seconds until the next, None to wait for input."""
        cost, more = self._sink.step()
        if self._closing:
            if not more:
                self._end()
            return 0.0
        now = self._loop.time()
        delay = max(self._budget.spend(cost, now), _total.spend(cost, now))
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
