"""The runtime's side of the ring of one run of a container, which contains its newest output.

Init writes the ring (launcher/ring.c), and never waits for a reader. The runtime reads by pread(2):
a read through a mapping would allocate the pages that init has not written yet, and charge them to
the runtime. Only page 0, which contains the positions, is mapped, after init has written it.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from northstar.linux import memfd
from northstar.model import Container, sentence
from northstar.runtime import ring
from northstar.runtime.bells import INTERVAL, Bells
from northstar.runtime.ring import Batch, CorruptRingError

log = logging.getLogger("northstar.runtime")

READ_MAX: Final = 64 * 1024
"""Default of the bytes that are read at once: about a millisecond with short records."""

_TRIES: Final = 3
"""How often a read is tried that the writer overtakes."""

_OFFSETS_MAX: Final = 64
"""Most positions whose sums are remembered: more than there are readers."""

_RETRY: Final = 1.0
"""Seconds between looks if the bell cannot be watched."""


class EndedRun(NamedTuple):
    """What the ring contained at the end of a run, in memory of the runtime.

    Attributes:
        container: the container.
        run: number of the run.
        started: as `LogRing.started`.
        position: ring position of the first byte of `records`.
        records: whole records, oldest first, as they were in the ring.
    """

    container: Container
    run: int
    started: int
    position: int
    records: bytes

    @property
    def size(self) -> int:
        """Bytes of memory that the records take."""
        return len(self.records)

    def read(self, position: int, most: int = READ_MAX) -> Batch:
        """Return records like `LogRing.read`; none from where on they are corrupt."""
        start = max(position, self.position)
        data = self.records[start - self.position :][: max(most, ring.RECORD_MAX)]
        end = self.position + self.size
        try:
            return ring.parse(
                data, start, whole=start + len(data) == end, offsets=(0, min(start, end))
            )
        except CorruptRingError:
            return Batch((), end)


class Listener:
    """A reader that is notified of more records, until `close`."""

    def __init__(self, log_ring: LogRing, callback: Callable[[], None]) -> None:
        self.callback = callback
        self._ring = log_ring

    def close(self) -> None:
        """Stop; idempotent."""
        self._ring.forget(self)


class LogRing:
    """The ring of one run, from before its launch to its end.

    Readers call `read` again with the position that the last call returned. Between two calls the
    writer may overwrite what they have not read.

    Attributes:
        container: the container.
        run: number of the run.
        started: ns of CLOCK_BOOTTIME when it was made. It identifies the run, also after a restart
            of the runtime, which counts runs from 1 again.
        capacity: bytes of records that it contains at most.
        broken: it was given up, since its content is not what init writes: nothing more is read.
        memfd: descriptor of the ring, for init, until `finish`.
        bell: an eventfd for init, until `finish`.
    """

    def __init__(self, container: Container, run: int, capacity: int, bells: Bells) -> None:
        """Create an empty ring, without memory.

        Args:
            container: the container.
            run: number of the run, from 1.
            capacity: whole pages.
            bells: waits for the bell.

        Raises:
            OSError: EMFILE.
        """
        self.container = container
        self.run = run
        self.started = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.capacity = capacity
        self.broken = False
        self._bells = bells
        self._page: mmap.mmap | None = None
        self._views: tuple[memoryview, memoryview] | None = None
        self._fence = threading.Lock()
        self._positions = ring.Positions(capacity)
        # Bytes of output before a position, for the positions that were returned last.
        self._offsets = {0: 0}
        self._ended = False
        self._kept: EndedRun | None = None
        self._listeners: list[Listener] = []
        self._seen = 0
        self._armed = False
        self._watched = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_look = 0.0
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.memfd = -1
        try:
            self.memfd = memfd.create("northstar-log")
            os.ftruncate(self.memfd, ring.PAGE + capacity)
            memfd.seal(self.memfd, memfd.F_SEAL_SEAL | memfd.F_SEAL_SHRINK | memfd.F_SEAL_GROW)
        except BaseException:
            self._release()
            raise

    def open(self) -> None:
        """Map page 0, after init has reported READY: init has written it, so the memory is its own.

        Raises:
            OSError: ENOMEM.
        """
        self._page = mmap.mmap(self.memfd, ring.PAGE)
        page = memoryview(self._page)
        # An aligned load or store of a cast view is one load or store of the processor.
        self._views = page.cast("Q"), page.cast("I")

    @property
    def is_open(self) -> bool:
        """Whether `open` was called, and `finish` was not. Not if it is broken."""
        return self._views is not None

    @property
    def ended(self) -> bool:
        """Whether no more records will come: the payload or its init has ended."""
        if self._views is not None and self._views[1][ring.ENDED_AT // 4]:
            self._ended = True
        return self._ended

    # Reading.

    def read(self, position: int, most: int = READ_MAX) -> Batch:
        """Return the oldest records from a position on, without waiting.

        Args:
            position: 0, or the position of an earlier batch.
            most: bytes of the ring to read at most; at least one record is read.

        Returns:
            No records if there are none yet, if the writer was faster each time, or if the ring is
            `broken`. If the first record's offset is larger than what the caller has read, the
            difference was lost.
        """
        if self._kept is not None and not self.broken:
            return self._kept.read(position, most)
        if self._views is None:
            return Batch((), position)
        try:
            return self._read(position, max(most, ring.RECORD_MAX))
        except CorruptRingError as error:
            self._give_up(error)
            return Batch((), position)

    def _read(self, position: int, most: int) -> Batch:
        for _ in range(_TRIES):
            head, tail = self._observe()
            start = max(position, tail)
            length = min(head - start, most)
            if start == head:
                return Batch((), start)
            if length < 0:
                continue  # the tail has passed the head that was loaded
            data = self._bytes(start, length)
            _, tail = self._observe()
            # What is below the tail now may have been overwritten while it was read.
            begin = max(start, tail)
            if begin >= start + length:
                continue
            batch = ring.parse(
                data[begin - start :],
                begin,
                whole=start + length == head,
                offsets=self._offsets_at(position, begin),
            )
            if batch.records:
                last = batch.records[-1]
                self._remember(batch.position, last.offset + len(last.data))
            return batch
        return Batch((), max(position, self._positions.tail))

    def _observe(self) -> tuple[int, int]:
        assert self._views is not None
        words = self._views[0]
        self._barrier()
        head = words[ring.HEAD_AT // 8]
        self._barrier()
        tail = words[ring.TAIL_AT // 8]
        self._barrier()
        self._positions.observe(head, tail, words[ring.HEAD_AT // 8])
        self._barrier()
        return head, tail

    def _barrier(self) -> None:
        """Let no load before it happen after it, and the reverse.

        On arm64 a processor may reorder two loads. A release of a lock comes after all loads before
        it, an acquisition before all loads behind it, and this release before this acquisition,
        since they are of the same lock.
        """
        with self._fence:
            pass
        with self._fence:
            pass

    def _bytes(self, start: int, length: int) -> bytes:
        parts = [
            os.pread(self.memfd, size, offset)
            for offset, size in ring.pieces(start, length, self.capacity)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _offsets_at(self, position: int, begin: int) -> tuple[int, int]:
        """Return the least and the most bytes of output before `begin`, after `position`."""
        known = self._offsets.get(position)
        return (0, begin) if known is None else (known, known + begin - position)

    def _remember(self, position: int, offset: int) -> None:
        self._offsets[position] = offset
        if len(self._offsets) > _OFFSETS_MAX:
            del self._offsets[next(iter(self._offsets))]

    def _give_up(self, error: CorruptRingError) -> None:
        log.warning("the log of %s is not itself any more: %s", self.container, sentence(error))
        self.broken = True
        self._ended = True
        self._release()
        self._notify()

    # Waiting.

    def listen(self, callback: Callable[[], None]) -> Listener:
        """Notify a reader, from the event loop: soon, and then when there may be more records.

        It is notified too when the ring has ended, or is broken. At most once in
        `bells.INTERVAL`, except at the end.
        """
        listener = Listener(self, callback)
        self._listeners.append(listener)
        asyncio.get_running_loop().call_soon(self._notify_one, listener)
        if self._views is not None and not self._ended:
            self._schedule(INTERVAL)
        return listener

    def forget(self, listener: Listener) -> None:
        """Stop notifying; used by `Listener.close`."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners:
            self._stop_waiting()

    def _notify_one(self, listener: Listener) -> None:
        if listener in self._listeners:
            listener.callback()

    def _notify(self) -> None:
        # Not at once: a reader may be the caller.
        for listener in self._listeners:
            asyncio.get_running_loop().call_soon(self._notify_one, listener)

    def _schedule(self, delay: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _rung(self) -> None:
        loop = asyncio.get_running_loop()
        self._schedule(max(0.0, self._last_look + INTERVAL - loop.time()))

    def _look(self) -> None:
        """Notify the readers of new records, and arm. Without new ones wait for the bell.

        Trap: nothing orders the store of `armed` before the load of `head` here, so init may find
        the old value of the former while this finds the old value of the latter. So after arming
        the head is loaded once more `INTERVAL` later: until then every processor sees the store.
        """
        self._timer = None
        if self._views is None or not self._listeners:
            return
        self._last_look = asyncio.get_running_loop().time()
        ended = self.ended
        words, halves = self._views
        head = words[ring.HEAD_AT // 8]
        if not ended:
            if head == self._seen and self._armed:
                self._wait()
                return
            halves[ring.ARMED_AT // 4] = 1
            self._armed = True
            self._schedule(INTERVAL)
        if head != self._seen or ended:
            self._seen = head
            self._notify()

    def _wait(self) -> None:
        if self._watched:
            return
        try:
            self._bells.add(self.bell, self._on_bell)
        except OSError as failure:
            log.debug("Cannot watch the log of %s: %s", self.container, failure.strerror)
            self._schedule(_RETRY)
        else:
            self._watched = True

    def _on_bell(self) -> None:
        self._armed = False
        self._rung()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # The end of a ring rings its bell, and leaves it armed.
        if self._views is not None and self._views[1][ring.ARMED_AT // 4]:
            self._views[1][ring.ARMED_AT // 4] = 0
        self._armed = False
        if self._watched:
            self._bells.remove(self.bell)
            self._watched = False

    # The end.

    def finish(self) -> EndedRun:
        """Read what is left, and release everything; idempotent.

        After the end of init, and before its cgroup is removed: the cgroup pays for the memory of
        the ring, and the kernel would keep it as long as the ring exists.
        """
        if self._kept is None:
            self._kept = EndedRun(self.container, self.run, self.started, *self._rest())
            self._ended = True
            self._release()
            self._notify()
        return self._kept

    def _rest(self) -> tuple[int, bytes]:
        if self._views is None:
            return 0, b""
        try:
            head, tail = self._observe()
            if tail > head:
                raise CorruptRingError("its tail has passed its head")
        except CorruptRingError as error:
            self._give_up(error)
            return 0, b""
        return tail, self._bytes(tail, head - tail) if head > tail else b""

    def _release(self) -> None:
        self._stop_waiting()
        if self._views is not None:
            for view in self._views:
                view.release()
            self._views = None
        if self._page is not None:
            self._page.close()
            self._page = None
        for descriptor in (self.memfd, self.bell):
            if descriptor >= 0:
                os.close(descriptor)
        self.memfd = self.bell = -1
