"""Runs of a container with real rings, and requests for their logs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

from northstar.api import request as requests
from northstar.api.log import Log, LogLine, LogStream
from northstar.model import Container
from northstar.runtime.bells import Bells
from northstar.runtime.console.channel import Channel
from northstar.runtime.log_requests import Clocks, LogRequests
from northstar.runtime.log_store import LogStore
from northstar.runtime.logring import LogRing
from tests.unit.runtime.ring_writer import RingWriter

A = Container.parse("a:1.0.0")
BOTH = (LogStream.STDOUT, LogStream.STDERR)
NOW = 10**12


class Runs:
    """A store, and the runs of containers.

    Attributes:
        boot: CLOCK_BOOTTIME of the requests.
        real: their time of day.
    """

    def __init__(self, bells: Bells, kept: int) -> None:
        self._bells = bells
        self._open: list[tuple[LogRing, RingWriter]] = []
        self._count = 0
        self.boot = NOW
        self.real = 2 * NOW
        self.store = LogStore(kept)
        self.requests = LogRequests(self.store, Clocks(lambda: self.boot, lambda: self.real))

    def begin(self, container: Container = A, capacity: int = 20480) -> RingWriter:
        """Begin a run, and return the writer of its ring."""
        self._count += 1
        ring = LogRing(container, self._count, capacity, self._bells)
        writer = RingWriter(ring)
        self._open.append((ring, writer))
        self.store.begin(ring)
        return writer

    def end(self) -> None:
        """End the newest run."""
        ring, writer = self._open.pop()
        with writer:
            broken = ring.broken
            ended = ring.finish()
        if not broken:
            self.store.end(ended)

    def run(self, *lines: bytes, container: Container = A) -> None:
        """Run a container that prints these, to its end."""
        writer = self.begin(container)
        for line in lines:
            writer.write(line)
        self.end()

    def break_ring(self) -> None:
        """Write what no init writes into the newest ring."""
        ring, _ = self._open[-1]
        os.pwrite(ring.memfd, b"\xff" * ring.capacity, 4096)

    async def read(self, container: Container = A, **options: Any) -> list[Log]:
        """Return the messages of a request that does not follow."""
        found: list[Log] = []
        await self.requests.serve(request(container, **options), channel(found))
        return found

    async def texts(self, container: Container = A, **options: Any) -> list[str | int]:
        return texts(await self.read(container, **options))

    @contextlib.contextmanager
    def following(
        self, container: Container = A, **options: Any
    ) -> Iterator[tuple[list[Log], Channel, asyncio.Task[None]]]:
        """Follow a log: its messages so far, the channel, and the request."""
        found: list[Log] = []
        used = channel(found)
        serve = self.requests.serve(request(container, follow=True, **options), used)
        task = asyncio.ensure_future(serve)
        try:
            yield found, used, task
        finally:
            task.cancel()

    def close(self) -> None:
        while self._open:
            ring, writer = self._open.pop()
            with writer:
                ring.finish()


def request(container: Container = A, **options: Any) -> requests.Logs:
    defaults = {"follow": False, "since": None, "lines": None, "cursor": None, "streams": BOTH}
    return requests.Logs(container, **{**defaults, **options})


def channel(found: list[Log]) -> Channel:
    return Channel(found.append, lambda: None, reads=False)  # type: ignore[arg-type]


def texts(entries: list[Log]) -> list[str | int]:
    return [one.text if isinstance(one, LogLine) else one.lost for one in entries]


@contextlib.contextmanager
def runs(kept: int = 2**20) -> Iterator[Runs]:
    """Runs, with no descriptor left afterwards."""
    before = set(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        made = Runs(stack.enter_context(Bells()), kept)
        stack.callback(made.close)
        yield made
    assert set(os.listdir("/proc/self/fd")) == before
