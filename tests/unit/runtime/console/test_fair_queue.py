"""Connections with many requests wait for their turn."""

from __future__ import annotations

import asyncio

from northstar.runtime.console.fair_queue import FairQueue


async def passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_one_entry_runs_in_each_pass() -> None:
    done: list[int] = []

    async def test() -> None:
        turns = FairQueue()
        for number in range(5):
            turns.wait(lambda number=number: done.append(number))  # type: ignore[misc]
        for count in range(5):
            assert len(done) == count
            await passes(1)
        assert done == [0, 1, 2, 3, 4]

    asyncio.run(test())


def test_a_new_entry_is_last_and_none_runs_twice_in_a_pass() -> None:
    done: list[str] = []

    async def test() -> None:
        turns = FairQueue()

        def greedy() -> None:
            done.append("greedy")
            if len(done) < 9:
                turns.wait(greedy)

        turns.wait(greedy)
        await passes(2)
        assert done == ["greedy", "greedy"]
        for name in "ab":
            turns.wait(lambda name=name: done.append(name))  # type: ignore[misc]
        await passes(3)
        assert done == ["greedy"] * 3 + ["a", "b"]
        await passes(9)
        assert done == ["greedy"] * 3 + ["a", "b"] + ["greedy"] * 4

    asyncio.run(test())


def test_a_cancelled_entry_takes_no_pass() -> None:
    done: list[int] = []

    async def test() -> None:
        turns = FairQueue()
        waiting = [turns.wait(lambda n=n: done.append(n)) for n in range(4)]  # type: ignore[misc]
        for turn in waiting[:3]:
            turn.cancel()
        await passes(1)
        assert done == [3]
        waiting[3].cancel()
        await passes(3)
        turns.wait(lambda: done.append(9))
        await passes(1)
        assert done == [3, 9]

    asyncio.run(test())
