"""Output of containers with `io: pipe` or `inherit`: from the ring to the log or our own output.

A container may print any bytes, at any rate, and never waits for the runtime (logring.py). So the
length of a line and the duration of a step are bounded, and the ring of a container that prints too
much is not read for a while. What it overwrites meanwhile is lost here; how much is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

from northstar.manifest import Io, Output
from northstar.model import Container, printable
from northstar.runtime import logs, writer
from northstar.runtime.logring import LogRing
from northstar.runtime.ratelimit import TokenBucket

LINE_MAX: Final = 4096
"""Longest line in bytes; a longer one is split."""

CHUNK: Final = 16 * 1024
"""Maximum bytes of one write to the runtime's output, and of one read of a pipe."""

LINES_PER_STEP: Final = 64
"""Most lines that are logged without returning to the event loop: about a millisecond."""

LINE_COST: Final = 500
"""Cost of a line besides its bytes, in bytes: each log call has a fixed cost."""

ESCAPE_COST: Final = 30
"""Cost of each character that escaping adds: a `\\x1b` takes as long as a hundred plain ones."""

RECORD_COST: Final = 24
"""Cost of a record besides its bytes: a container may print single ones."""

STEP_COST: Final = 64 * 1024
"""Cost after which a step ends, exceeded by one line at most: binary data is slower than text."""

RATE: Final = 2**20
"""Bytes per second of one stream, including line costs; also the largest burst."""

TOTAL_RATE: Final = 2 * 2**20
"""The same for all streams together: 4000 short lines per second, some percent of a processor."""

BACKLOG_MAX: Final = writer.LIMIT // 2
"""Buffered bytes above which containers are not read; the other half is for the runtime's lines."""

BACKLOG_PAUSE: Final = 0.05
"""Seconds until the backlog is checked again."""

DRAIN_MAX: Final = 2**20
"""Most bytes that are read from a pipe after its writer's end: the default maximum of its size."""

DRAIN_LINES: Final = 1024
"""Most lines of these that are logged. The last ones are kept: they explain why it ended."""

DRAIN_KEPT: Final = 128 * 1024
"""Most bytes of these that are logged: binary data takes longer than text."""

LOST: Final = "(%d bytes of its output are lost here)"
"""Reports bytes that were overwritten before they were read."""

READ_AT_CLOSE: Final = 64 * 1024
"""Bytes of the ring that are read in one step after the container's end: about a millisecond."""

STEPS_AT_CLOSE: Final = 8
"""Steps of `close` before it returns: enough for the remaining output of most."""

total_bucket: Final = TokenBucket(TOTAL_RATE, TOTAL_RATE)
"""Limits `TOTAL_RATE`."""


class Sink(Protocol):
    """The destination of the bytes of a stream."""

    def feed(self, data: bytes) -> None:
        """Take bytes."""

    def step(self) -> tuple[int, bool]:
        """Pass on a bounded part of the bytes; return its cost and whether more bytes remain."""

    def finish(self) -> None:
        """Pass on an incomplete line."""

    def lose(self, count: int) -> None:
        """Report that this many bytes are lost between those before and after the call.

        Args:
            count: 0 if another sink reports it. An incomplete line ends all the same, since a part
                of it may be lost.
        """

    def trim(self) -> None:
        """Drop bytes that would take too long to pass on: the container has ended."""

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

    def lose(self, count: int) -> None:
        """Log what waits, with an incomplete line, and a line about the loss."""
        while self.step()[1]:
            continue
        self.finish()
        if count:
            self._log.log(self._level, LOST, count)

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
        self._in_line = False

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._buffer += data
        self._in_line = not data.endswith(b"\n")

    def step(self) -> tuple[int, bool]:
        """Write some bytes."""
        # In chunks: a write that exceeds the writer's limit is lost as a whole.
        data = bytes(self._buffer[:CHUNK])
        del self._buffer[:CHUNK]
        self._out.write(data)
        return len(data), bool(self._buffer)

    def finish(self) -> None:
        """Do nothing: bytes are never incomplete."""

    def lose(self, count: int) -> None:
        """Write a line about it."""
        if count:
            self.feed(b"\n" * self._in_line + LOST.encode() % count + b"\n")

    def trim(self) -> None:
        """Do nothing: copying bytes is fast."""

    def backlog(self) -> int:
        """Return the number of bytes that wait for the descriptor."""
        return self._out.backlog


def open_output(ring: LogRing, io: Io) -> RingOutput | None:
    """Begin to pass on the output of a container; None if nothing is to be passed on.

    Args:
        ring: the container's ring.
        io: for each stream: pipe (to the log) or inherit (to the runtime's output). A stream of the
            former is not read if its level is not logged at all.
    """
    sinks: dict[int, Sink] = {}
    for number, output in ((1, io.stdout), (2, io.stderr)):
        if output is Output.INHERIT:
            sinks[number] = CopySink(writer.shared(number))
        elif output is Output.PIPE and logs.ContainerLog(ring.container).enabled(logging.DEBUG):
            sinks[number] = LineSink(ring.container)
    return RingOutput(ring, sinks) if sinks else None


class RingOutput:
    """Passes on the output in a ring, from its begin, at a limited rate.

    Attributes:
        lost: bytes of output that were overwritten before they were read.
        ended: the run has ended, and the sinks have received all bytes that were left.
    """

    def __init__(self, ring: LogRing, sinks: Mapping[int, Sink]) -> None:
        """Begin to read.

        Args:
            ring: the ring.
            sinks: by stream, 1 or 2. Output of others is skipped.
        """
        self.lost = 0
        self.ended = False
        self._ring = ring
        self._sinks = sinks
        self._buckets = {stream: TokenBucket(RATE, RATE) for stream in sinks}
        self._position = 0
        self._offset = 0
        self._unreported = 0
        self._closing = False
        self._trimmed = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._listener = ring.listen(self._readable)

    def close(self) -> None:
        """Pass on what is left, after `LogRing.finish`. Idempotent.

        Usually this is complete on return. Many bytes are passed on in steps later, so that they do
        not delay other containers.
        """
        if self._closing:
            return
        self._closing = True
        self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _ in range(STEPS_AT_CLOSE):
            if not self.ended:
                self._close_step()
        self._schedule(0.0)

    def _readable(self) -> None:
        if self._timer is None and not self._closing:
            self._schedule(self._step())

    def _pump(self) -> None:
        self._timer = None
        if self._closing:
            self._close_step()
            self._schedule(0.0)
        else:
            self._schedule(self._step())

    def _schedule(self, delay: float | None) -> None:
        """Do the next step after `delay` seconds; None waits for output."""
        if delay is not None and not self.ended:
            self._timer = self._loop.call_later(delay, self._pump)

    def _step(self) -> float | None:
        """Do one step; return the seconds until the next one, or None to wait for output."""
        more = False
        delay = 0.0
        now = self._loop.time()
        for stream, sink in self._sinks.items():
            cost, rest = sink.step()
            more = more or rest
            waits = self._buckets[stream].spend(cost, now), total_bucket.spend(cost, now)
            delay = max(delay, *waits)
            if sink.backlog() > BACKLOG_MAX:
                delay = max(delay, BACKLOG_PAUSE)
        if delay or more:
            # Nothing more is read, so the sinks hold little, and the ring keeps what is new.
            return delay
        return 0.0 if self._feed(CHUNK) else None

    def _feed(self, most: int) -> bool:
        """Give the sinks the next records; return whether there were any."""
        batch = self._ring.read(self._position, most)
        for record in batch.records:
            gap = record.offset - self._offset
            self._offset = record.offset + len(record.data)
            self.lost += gap
            self._unreported += gap
            sink = self._sinks.get(record.stream)
            if sink is None:
                continue
            if self._unreported:
                for other in self._sinks.values():
                    other.lose(0)
                sink.lose(self._unreported)
                self._unreported = 0
            sink.feed(record.data)
        self._position = batch.position
        if batch.records and not self._closing:
            total_bucket.spend(len(batch.records) * RECORD_COST, self._loop.time())
        return bool(batch.records)

    def _close_step(self) -> None:
        if self._feed(READ_AT_CLOSE):
            return
        if not self._trimmed:
            self._trimmed = True
            for sink in self._sinks.values():
                sink.trim()
        more = [sink.step()[1] for sink in self._sinks.values()]
        if not any(more):
            for sink in self._sinks.values():
                sink.finish()
            self.ended = True
