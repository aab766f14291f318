"""Coroutines that run up to their first wait without a task."""

from __future__ import annotations

import asyncio

import pytest

from northstar.runtime.console.first_step import Ended, first_step
from tests.unit.runtime.console.harness import run


def test_a_coroutine_that_does_not_wait_ends() -> None:
    async def answer() -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.set_result(7)
        return await done

    async def test() -> None:
        assert first_step(answer()) == Ended(7)

    run(test())


def test_an_exception_before_the_first_wait_is_raised() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        first_step(fail())


@pytest.mark.parametrize("fails", [True, False])
def test_a_coroutine_that_waits_goes_on_in_a_task(*, fails: bool) -> None:
    async def test() -> None:
        first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        second: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        steps: list[str] = []
        reached = asyncio.Event()

        async def answer() -> int:
            steps.append("begun")
            try:
                found = await first
            except ZeroDivisionError:
                found = 1
            await asyncio.sleep(0)
            steps.append("first")
            reached.set()
            async with asyncio.timeout(20):  # it has a current task now
                return found + await second

        rest = first_step(answer())
        assert not isinstance(rest, Ended)
        assert steps == ["begun"]
        task = asyncio.create_task(rest)
        await asyncio.sleep(0)
        assert steps == ["begun"]
        if fails:
            first.set_exception(ZeroDivisionError())
        else:
            first.set_result(1)
        await asyncio.wait_for(reached.wait(), 20)
        second.set_result(10)
        assert await task == 11

    run(test())


def test_a_cancellation_reaches_the_coroutine() -> None:
    async def test() -> None:
        waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seen: list[str] = []

        async def answer() -> None:
            try:
                await waited
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0)
                seen.append("cleaned up")
                raise

        rest = first_step(answer())
        assert not isinstance(rest, Ended)
        task = asyncio.create_task(rest)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled", "cleaned up"]
        assert waited.cancelled()

    run(test())
