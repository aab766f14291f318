"""Answers the requests for the logs of containers.

A reader is never waited for: it has a position, the writer overtakes it, and what it missed is
counted. It holds no more than one batch of records besides unfinished lines. After a turn of a
millisecond it lets the event loop serve others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final, NamedTuple

from northstar.api import RefusedError
from northstar.api import request as requests
from northstar.api.error import Unexpected
from northstar.api.log import LogLine, LogLost, LogStream
from northstar.model import InvalidValueError
from northstar.runtime.console.channel import Channel
from northstar.runtime.log_lines import STDERR, STDOUT, Cursor, Gap, Line, LineReader, Place
from northstar.runtime.log_store import Listener, LogStore, Run, Watch

READ_MAX: Final = 32 * 1024
"""Bytes of a ring that are read at once."""

TURN: Final = 0.001
"""Seconds after which the event loop serves others."""

HELD_MAX: Final = 256
"""Most lines that are held in memory to send the last ones, 1 MiB at most. More are counted first,
and read again, which a fast writer may overtake."""

COUNTS: Final = 3
"""How often the lines are counted again since the writer has overtaken the count."""

_STREAMS: Final = {STDOUT: LogStream.STDOUT, STDERR: LogStream.STDERR}
_U64_MAX: Final = 2**64 - 1
_NEVER: Final = 2**64
"""The time of what no record follows."""


class Clocks(NamedTuple):
    """The clocks, in ns.

    Attributes:
        boot: CLOCK_BOOTTIME, that of the records.
        real: ns since 1970.
    """

    boot: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    real: Callable[[], int] = time.time_ns


class Entry(NamedTuple):
    """A line or a gap.

    Attributes:
        run: number of its run.
        item: the line or the gap.
    """

    run: int
    item: Line | Gap


class LogRequests:
    """Answers requests for logs."""

    def __init__(self, store: LogStore, clocks: Clocks | None = None) -> None:
        self._store = store
        self._clocks = clocks or Clocks()

    async def serve(self, request: requests.Logs, channel: Channel) -> None:
        """Send the messages of a request.

        Raises:
            RefusedError: its cursor is invalid.
        """
        with self._store.watching(request.container) as watch:
            channel.on_end(watch.wake)
            await _Reading(self._store, self._clocks, request, channel, watch).serve()


class _Reading:
    """One request in progress."""

    def __init__(
        self,
        store: LogStore,
        clocks: Clocks,
        request: requests.Logs,
        channel: Channel,
        watch: Watch,
    ) -> None:
        self._store = store
        self._clocks = clocks
        self._request = request
        self._channel = channel
        self._watch = watch
        self._now = clocks.boot()
        since = request.since
        self._earliest = None if since is None else self._now - since
        self._streams = {number for number, one in _STREAMS.items() if one in request.streams}
        self._place = self._place_of(request.cursor)
        self._identity: int | None = None
        self._turn = time.monotonic()
        self._listener: tuple[int, Listener] | None = None

    def _place_of(self, cursor: str | None) -> Place | None:
        if cursor is None:
            return None
        try:
            found = Cursor.parse(cursor)
        except InvalidValueError as error:
            raise RefusedError(Unexpected(str(error))) from None
        if found.log != self._store.identity(self._request.container):
            raise RefusedError(
                Unexpected(
                    f"the cursor {cursor} is of an earlier installation of "
                    f"{self._request.container}, or of an earlier run of the runtime: nothing is "
                    "left of that log, so ask without a cursor"
                )
            )
        return found.place

    async def serve(self) -> None:
        """Send all messages."""
        if self._request.lines is not None and self._request.lines <= HELD_MAX:
            await self._send_last(self._request.lines)
            if self._request.follow:
                await self._send_all(0, 0)
            return
        for _ in range(COUNTS):
            skip, lost = await self._lines_to_skip()
            if await self._send_all(skip, lost):
                return
        await self._send_all(0, 0)

    async def _send_last(self, count: int) -> None:
        """Send the last lines of those that are there now; the next reading begins behind them."""
        last: deque[Entry] = deque()
        lines = 0
        async with contextlib.aclosing(self._entries(follow=False)) as entries:
            async for entry in entries:
                if isinstance(entry.item, Line):
                    self._place = entry.item.behind
                if not self._is_wanted(entry.item):
                    continue
                last.append(entry)
                lines += isinstance(entry.item, Line)
                while lines > count or (last and lines == count and _is_gap(last[0])):
                    lines -= isinstance(last.popleft().item, Line)
        for entry in last:
            await self._send(entry)

    async def _send(self, entry: Entry) -> None:
        self._channel.send(self._message(entry))
        if not self._channel.is_writable:
            await self._channel.writable()
            self._turn = time.monotonic()

    async def _lines_to_skip(self) -> tuple[int, int]:
        """Return how many lines precede the requested ones, and the bytes that are lost so far."""
        if self._request.lines is None:
            return 0, 0
        lines = lost = 0
        async with contextlib.aclosing(self._entries(follow=False)) as entries:
            async for entry in entries:
                if isinstance(entry.item, Gap):
                    lost += entry.item.lost
                else:
                    lines += self._is_wanted(entry.item)
        return max(0, lines - self._request.lines), lost

    async def _send_all(self, skip: int, lost: int) -> bool:
        """Send messages.

        Args:
            skip: wanted lines that are not sent.
            lost: bytes that were lost when these lines were counted.

        Returns:
            False if it must be repeated, since lines were overwritten before they were skipped.
        """
        follow = self._request.follow
        async with contextlib.aclosing(self._entries(follow=follow)) as entries:
            async for entry in entries:
                item = entry.item
                if skip and isinstance(item, Gap):
                    lost -= item.lost
                    if lost < 0:
                        return False
                elif skip:
                    skip -= self._is_wanted(item)
                elif self._is_wanted(item):
                    await self._send(entry)
        return True

    def _is_wanted(self, item: Line | Gap) -> bool:
        if self._earliest is not None and item.time < self._earliest:
            return False
        return isinstance(item, Gap) or item.stream in self._streams

    def _message(self, entry: Entry) -> LogLine | LogLost:
        container, item = self._request.container, entry.item
        if isinstance(item, Gap):
            return LogLost(container, entry.run, item.lost)
        # By today's clock: lines from before it was set get the right time too.
        offset = self._clocks.real() - self._clocks.boot()
        return LogLine(
            container,
            entry.run,
            min(max(item.time + offset, 0), _U64_MAX),
            _STREAMS[item.stream],
            item.text,
            str(Cursor(self._identity or 0, item.behind)),
        )

    # Reading.

    async def _entries(self, *, follow: bool) -> AsyncGenerator[Entry, None]:
        """Yield lines and gaps, oldest first.

        Args:
            follow: wait for more. Without it, those that are there now.
        """
        container, watch = self._request.container, self._watch
        lines = LineReader(self._place)
        is_begun = self._place is not None
        self._identity = self._store.identity(container)
        number, begun, done, position = 0, -1, -1, 0
        try:
            while not watch.removed:
                watch.changed.clear()
                over = watch.over or self._channel.ended or not follow
                runs = await self._store.runs(container)
                if self._store.identity(container) != self._identity:
                    # The first run has begun, or the ring was given up: a new log begins.
                    self._identity, lines = self._store.identity(container), LineReader()
                elif not is_begun:
                    # What is not there any more at the begin is not lost.
                    base = runs[0].base if runs else self._store.written(container)
                    lines = LineReader(Place(base))
                is_begun = True
                run = _next_run(runs, begun, done)
                base = self._store.written(container) if run is None else run.base
                # The rest of the run before is not kept.
                for item in _between(lines, base, run, begun, done):
                    yield Entry(number or (0 if run is None else run.number), item)
                if run is None:
                    if over:
                        return
                    await self._wait()
                    continue
                if run.started != begun:
                    number, begun, position = run.number, run.started, 0
                # Before the read: what it finds is complete then.
                ended = run.ring is None or run.ring.ended
                batch = run.source.read(position, READ_MAX)
                position = batch.position
                for record in batch.records:
                    if over and record.time > self._now and not watch.over:
                        return
                    for item in lines.feed(record, run.base):
                        yield Entry(number, item)
                        await self._rest()
                    await self._rest()
                if batch.records:
                    continue
                if ended:
                    for item in lines.finish():
                        yield Entry(number, item)
                    done = run.started
                elif over:
                    return
                else:
                    self._listen(run)
                    await self._wait()
        finally:
            self._stop_listening()

    async def _wait(self) -> None:
        """Wait for a change."""
        await self._watch.changed.wait()
        self._turn = time.monotonic()

    async def _rest(self) -> None:
        """Let the event loop serve others after a turn."""
        if time.monotonic() - self._turn > TURN:
            await asyncio.sleep(0)
            self._turn = time.monotonic()

    def _listen(self, run: Run) -> None:
        if self._listener is not None and self._listener[0] == run.started:
            return
        self._stop_listening()
        if run.ring is not None:
            self._listener = run.started, run.ring.listen(self._watch.wake)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener[1].close()
            self._listener = None


def _is_gap(entry: Entry) -> bool:
    return isinstance(entry.item, Gap)


def _next_run(runs: tuple[Run, ...], begun: int, done: int) -> Run | None:
    """Return the run to read from: the one that was begun, or a later one."""
    for run in runs:
        if run.started >= begun and run.started > done:
            return run
    return None


def _between(
    lines: LineReader, base: int, run: Run | None, begun: int, done: int
) -> list[Line | Gap]:
    """Return what comes between the output that was read, and that of the next run.

    Args:
        lines: what was read.
        base: position where the next run begins, or where the last one has ended.
        run: the next run, if there is one.
        begun: the run that was read.
        done: the run that was read to its end.
    """
    if run is not None and run.started == begun:
        return []
    cut_off: list[Line | Gap] = [] if begun == done else list(lines.finish())
    return cut_off + list(lines.skip(base, _NEVER if run is None else run.started))
