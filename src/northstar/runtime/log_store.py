"""The logs of all containers: of each the present run, and the newest run that has ended.

Nothing is written to disk: flash wears. What is kept of ended runs is in the runtime's memory, all
together within the configured limit, and goes with the package or with the runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol, Self

from northstar.model import Container, Name
from northstar.model.loop_deadline import timeout
from northstar.runtime import ring
from northstar.runtime.ring import Batch

_STEP: Final = 2000
"""Records of an ended run that are counted without returning to the event loop: about 0.5 ms."""


class Listener(Protocol):
    """A reader that is notified of more records."""

    def close(self) -> None:
        """Stop; idempotent."""


class Source(Protocol):
    """The records of a run: `LogRing` and `EndedRun`, with the same positions."""

    def read(self, position: int, most: int = ...) -> Batch:
        """Return the oldest records from a position on."""


class Ring(Source, Protocol):
    """The ring of a run: `LogRing`."""

    container: Container
    run: int
    started: int
    broken: bool

    @property
    def ended(self) -> bool:
        """Whether no more records will come."""

    def listen(self, callback: Callback) -> Listener:
        """Call back when there may be more records, or the ring has ended."""


class Callback(Protocol):
    """A function without arguments."""

    def __call__(self) -> None:
        """Call it."""


class Ended(Source, Protocol):
    """What the ring contained at the end of a run: `EndedRun`."""

    @property
    def container(self) -> Container:
        """The container."""

    @property
    def run(self) -> int:
        """Number of the run."""

    @property
    def started(self) -> int:
        """Identifies the run."""

    @property
    def position(self) -> int:
        """Ring position of the first record."""

    @property
    def records(self) -> bytes:
        """The records."""

    def _replace(self, *, position: int, records: bytes) -> Self:
        """Return it with other records."""


class Run(NamedTuple):
    """A run whose output, or a part of it, is there.

    Attributes:
        number: as in the container's status.
        started: ns of CLOCK_BOOTTIME; identifies the run.
        base: bytes of output of the container's earlier runs.
        source: its records.
        ring: the ring, if it has not ended.
    """

    number: int
    started: int
    base: int
    source: Source
    ring: Ring | None


class _Log:
    """The log of one container.

    Attributes:
        identity: ns of CLOCK_BOOTTIME at the first run.
        written: bytes of output of all runs that have ended.
        kept: the newest run that has ended, with output.
        present: the ring of the run that has not ended.
        counting: counts the output of a run that has just ended.
    """

    def __init__(self, identity: int) -> None:
        self.identity = identity
        self.written = 0
        self.kept: Run | None = None
        self.present: Ring | None = None
        self.counting: asyncio.Task[None] | None = None


class Watch:
    """A reader of a container's log that waits for changes.

    Attributes:
        changed: set at each change; the reader clears it.
        over: the package was removed, or the runtime ends: there will be no other run.
        removed: the package was removed.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.over = False
        self.removed = False

    def wake(self) -> None:
        """Have the reader look again."""
        self.changed.set()


class LogStore:
    """The logs of all containers. Used in the event loop's thread."""

    def __init__(self, kept: int) -> None:
        """Keep the newest ended run of each name, `kept` bytes at most, of all together."""
        self._limit = kept
        self._logs: dict[Container, _Log] = {}
        # By name, in the order of their ends.
        self._kept: dict[Name, tuple[Container, int]] = {}
        self._watches: dict[Container, set[Watch]] = {}
        self._counting: asyncio.Task[None] | None = None
        self._closing = False
        self._unwatched = asyncio.Event()

    # Called by the runtime.

    def begin(self, present: Ring) -> None:
        """A run begins to write to its ring."""
        log = self._logs.setdefault(present.container, _Log(present.started))
        if log.present is not None:
            # Its end was not reported, since it was given up.
            log = self._restart(present.container, present.started)
        log.present = present
        self._changed(present.container)

    def end(self, ended: Ended) -> None:
        """A run has ended, and its ring is released. `begin` need not have been called."""
        container = ended.container
        log = self._logs.setdefault(container, _Log(ended.started))
        if log.present is not None and log.present.broken:
            log = self._restart(container, ended.started + 1)
        log.present = None
        # One after the other: who ended first goes first.
        counting = self._count(log, ended, self._counting)
        self._counting = log.counting = asyncio.get_running_loop().create_task(counting)

    def remove(self, container: Container) -> None:
        """The package was removed: its log goes with it."""
        log = self._logs.pop(container, None)
        if log is not None and log.counting is not None:
            log.counting.cancel()
        self._forget(container)
        for watch in self._watches.get(container, ()):
            watch.over = watch.removed = True
        self._changed(container)

    async def close(self, seconds: float) -> None:
        """End all readers; wait up to `seconds` until they have sent what is there."""
        self._closing = True
        for container, watches in self._watches.items():
            for watch in watches:
                watch.over = True
            self._changed(container)
        if self._watches:
            self._unwatched.clear()
            with contextlib.suppress(TimeoutError):
                async with timeout(seconds):
                    await self._unwatched.wait()
        for log in self._logs.values():
            if log.counting is not None:
                log.counting.cancel()

    # Called by readers.

    @contextlib.contextmanager
    def watching(self, container: Container) -> Iterator[Watch]:
        """Watch the log of a container."""
        watch = Watch()
        watch.over = self._closing
        self._watches.setdefault(container, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[container]
            watches.discard(watch)
            if not watches:
                del self._watches[container]
            if not self._watches:
                self._unwatched.set()

    def identity(self, container: Container) -> int | None:
        """Return what identifies the log; None if the container has not run."""
        log = self._logs.get(container)
        return None if log is None else log.identity

    async def runs(self, container: Container) -> tuple[Run, ...]:
        """Return the kept run and the present one, if they are there, oldest first."""
        while (log := self._logs.get(container)) is not None and log.counting is not None:
            await asyncio.wait([log.counting])
        if log is None:
            return ()
        present = log.present
        if present is None:
            return () if log.kept is None else (log.kept,)
        run = Run(present.run, present.started, log.written, present, present)
        return (run,) if log.kept is None else (log.kept, run)

    def written(self, container: Container) -> int:
        """Return the bytes of output of all runs that have ended."""
        log = self._logs.get(container)
        return 0 if log is None else log.written

    @property
    def kept(self) -> int:
        """Bytes that are kept of ended runs."""
        return sum(size for _, size in self._kept.values())

    def _changed(self, container: Container) -> None:
        for watch in self._watches.get(container, ()):
            watch.wake()

    async def _count(self, log: _Log, ended: Ended, before: asyncio.Task[None] | None) -> None:
        """Count the output of an ended run, and keep what fits into the limit."""
        try:
            if before is not None:
                await asyncio.wait([before])
            records = ended.records
            # The record in which the part begins that fits into the limit.
            cut, at, written = 0, 0, 0
            while at < len(records):
                for _ in range(_STEP):
                    if at >= len(records):
                        break
                    if at <= len(records) - self._limit:
                        cut = at
                    at, output = ring.skip(records, at)
                    written = max(written, output)
                await asyncio.sleep(0)
            if self._logs.get(ended.container) is log:
                self._keep(log, self._trimmed(ended, cut))
                # Each byte of output takes one of the ring, whatever the container made of it.
                log.written += min(written, ended.position + len(records))
        finally:
            if log.counting is asyncio.current_task():
                log.counting = None
            self._changed(ended.container)

    def _trimmed(self, ended: Ended, cut: int) -> Ended:
        """Return the part of a run that fits into the limit; it begins in the record at `cut`."""
        if len(ended.records) <= self._limit:
            return ended
        kept = ring.newest(ended.records, cut, self._limit)
        begin = ended.position + len(ended.records) - len(kept)
        return ended._replace(position=begin, records=kept)

    def _keep(self, log: _Log, ended: Ended) -> None:
        """Keep an ended run. One without output does not replace an earlier one."""
        size = len(ended.records)
        if not size:
            return
        name = ended.container.name
        self._drop(name)
        self._kept[name] = ended.container, size
        log.kept = Run(ended.run, ended.started, log.written, ended, None)
        while self.kept > self._limit:
            self._drop(next(iter(self._kept)))

    def _restart(self, container: Container, identity: int) -> _Log:
        """Begin a new log after a ring was given up: how much it has written is not known."""
        self._forget(container)
        self._logs[container] = log = _Log(identity)
        return log

    def _forget(self, container: Container) -> None:
        if self._kept.get(container.name, (None, 0))[0] == container:
            del self._kept[container.name]

    def _drop(self, name: Name) -> None:
        container, _ = self._kept.pop(name, (None, 0))
        if container is not None:
            self._logs[container].kept = None
