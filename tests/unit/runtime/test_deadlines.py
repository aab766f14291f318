"""The deadlines of containers in the event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

from northstar.model import Container
from northstar.runtime.deadlines import Deadlines

APP = Container.parse("app:1.0.0")
OTHER = Container.parse("other:1.0.0")
MS = 1_000_000


class Reached(list[Container]):
    """The containers whose deadline has come, and an event for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines = Deadlines(self.add)
        self.any = asyncio.Event()

    def add(self, container: Container) -> None:
        self.append(container)
        self.any.set()


def run(test: Callable[[Reached], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test(Reached())

    asyncio.run(limited())


def test_a_deadline_is_reached_once_and_not_before_its_time() -> None:
    async def test(reached: Reached) -> None:
        when = time.monotonic_ns() + 50 * MS
        reached.deadlines.set(APP, when)
        await reached.any.wait()
        assert time.monotonic_ns() >= when
        await asyncio.sleep(0.02)
        assert reached == [APP]

    run(test)


def test_a_deadline_is_replaced_and_removed() -> None:
    async def test(reached: Reached) -> None:
        now = time.monotonic_ns()
        reached.deadlines.set(APP, now + 1 * MS)
        reached.deadlines.set(APP, now + 3600_000 * MS)
        reached.deadlines.set(OTHER, now + 1 * MS)
        reached.deadlines.set(OTHER, None)
        reached.deadlines.set(OTHER, None)
        await asyncio.sleep(0.05)
        assert reached == []
        reached.deadlines.set(APP, now + 60 * MS)
        await reached.any.wait()
        assert reached == [APP]

    run(test)


def test_a_deadline_in_the_past_is_reached_soon_but_not_at_once() -> None:
    async def test(reached: Reached) -> None:
        reached.deadlines.set(APP, time.monotonic_ns() - 1000 * MS)
        assert reached == []
        await reached.any.wait()
        reached.deadlines.set(APP, None)
        assert reached == [APP]

    run(test)


def test_what_was_pending_at_the_deadline_comes_first() -> None:
    """As after a SIGSTOP of the runtime: the deadline is long over, and an exit is reported."""

    async def test(reached: Reached) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        try:

            def exited() -> None:
                loop.remove_reader(reader)
                reached.deadlines.set(APP, None)
                reached.any.set()

            loop.add_reader(reader, exited)
            reached.deadlines.set(APP, time.monotonic_ns() + 20 * MS)
            os.write(writer, b"x")
            time.sleep(0.1)  # noqa: ASYNC251 - the event loop must be late
            await reached.any.wait()
            await asyncio.sleep(0.15)
            assert reached == []
        finally:
            os.close(reader)
            os.close(writer)

    run(test)


def test_a_deadline_of_a_year_can_be_set() -> None:
    async def test(reached: Reached) -> None:
        reached.deadlines.set(APP, time.monotonic_ns() + 365 * 86_400_000 * MS)
        await asyncio.sleep(0.01)
        assert reached == []
        reached.deadlines.set(APP, None)

    run(test)
