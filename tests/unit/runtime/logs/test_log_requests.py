"""Requests for logs, with real rings and a real store."""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc

import pytest

from northstar.api import RefusedError
from northstar.api.log import LogLine, LogLost, LogStream
from northstar.model import Container
from northstar.runtime import log_requests
from northstar.runtime.log_lines import Cursor
from northstar.runtime.log_store import Run
from tests.unit.runtime.console.harness import run, until
from tests.unit.runtime.logs.rings import NOW, A, runs, texts


def test_the_kept_run_and_the_present_one() -> None:
    async def test() -> None:
        with runs() as made:
            assert await made.read() == []
            made.run(b"one\ntwo")
            made.begin().write(b"three\nfo")
            found = await made.read()
            assert texts(found) == ["one", "two", "three"]
            assert [one.run for one in found] == [1, 1, 2]

    run(test())


@pytest.mark.parametrize("held", [0, 256])
def test_streams_since_and_lines(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_requests, "HELD_MAX", held)

    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            for number in range(5):
                writer.write(b"o%d\n" % number, 1, NOW - 100 + 10 * number)
                writer.write(b"e%d\n" % number, 2, NOW - 95 + 10 * number)
            assert await made.texts(lines=3) == ["e3", "o4", "e4"]
            assert await made.texts(lines=0) == []
            assert len(await made.texts(lines=2**64 - 1)) == 10
            assert await made.texts(streams=(LogStream.STDERR,), lines=2) == ["e3", "e4"]
            assert await made.texts(since=70, lines=100) == ["o3", "e3", "o4", "e4"]
            assert await made.texts(since=70, streams=(LogStream.STDOUT,)) == ["o3", "o4"]
            assert await made.texts(streams=()) == []

    run(test())


def test_what_is_written_later_is_not_there_now() -> None:
    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            writer.write(b"now\n", 1, NOW)
            writer.write(b"later\n", 1, NOW + 1)
            assert await made.texts() == ["now"]
            assert await made.texts(lines=1) == ["now"]

    run(test())


def test_the_clock_is_set_between_two_lines() -> None:
    """Both get their times by the new one, whatever the old one was."""

    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            made.real = 3 * 10**9  # 1970
            writer.write(b"before\n", 1, NOW - 8)
            assert [one.time for one in await made.read() if isinstance(one, LogLine)] == [
                3 * 10**9 - 8
            ]
            made.real = 1_796_000_000 * 10**9
            writer.write(b"after\n", 1, NOW - 3)
            found = await made.read()
            assert [one.time for one in found if isinstance(one, LogLine)] == [
                made.real - 8,
                made.real - 3,
            ]
            # A clock from before the boot: no negative time.
            made.real = 0
            assert [one.time for one in await made.read() if isinstance(one, LogLine)] == [0, 0]

    run(test())


def test_each_cursor_continues_over_a_restart() -> None:
    async def test() -> None:
        with runs() as made:
            made.run(b"one\ntwo\nunfinished")
            writer = made.begin()
            for stream, data in ((1, b"thr"), (2, b"err\nmo"), (1, b"ee\nfo"), (2, b"re\n")):
                writer.write(data, stream)
            found = await made.read()
            assert texts(found) == ["one", "two", "unfinished", "err", "three", "more"]
            for number, line in enumerate(found):
                assert isinstance(line, LogLine)
                rest = await made.read(cursor=line.cursor)
                assert rest == found[number + 1 :]
            made.end()
            made.run(b"new\n")
            # Only the last run is kept: the rest of the earlier ones is counted.
            written = len(b"one\ntwo\nunfinished" + b"threrr\nmoee\nfore\n")
            sizes = [4, 4, 10, 4, 6, 5]
            for number, line in enumerate(found):
                assert isinstance(line, LogLine)
                lost = written - sum(sizes[: number + 1])
                assert await made.texts(cursor=line.cursor) == [lost, "new"]

    run(test())


def test_follow_behind_the_last_lines() -> None:
    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            writer.write(b"one\ntwo\nthree\nun")
            for lines, expected in ((2, ["two", "three"]), (0, [])):
                with made.following(lines=lines) as (found, _, _):
                    await asyncio.sleep(0.01)
                    writer.write(b"finished\nun")
                    await until(lambda: texts(found)[-1:] == ["unfinished"])
                    assert texts(found)[:-1] == expected
                expected.clear()
                made.end()
                writer = made.begin()
                writer.write(b"four\nun")

    run(test())


def test_the_cursor_behind_everything() -> None:
    async def test() -> None:
        with runs() as made:
            made.run(b"one\n")
            [line] = await made.read()
            assert isinstance(line, LogLine)
            assert await made.texts(cursor=line.cursor) == []
            made.begin().write(b"two\n")
            assert await made.texts(cursor=line.cursor) == ["two"]

    run(test())


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [("x", "'x' is not a cursor"), ("1-0", "of an earlier installation of a:1.0.0")],
)
def test_an_invalid_cursor(cursor: str, reason: str) -> None:
    async def test() -> None:
        with runs() as made:
            for _ in range(2):
                with pytest.raises(RefusedError, match=reason):
                    await made.read(cursor=cursor)
                made.run(b"one\n")

    run(test())


def test_follow_over_runs_until_the_package_is_removed() -> None:
    async def test() -> None:
        with runs() as made, made.following() as (found, _, task):
            await asyncio.sleep(0)
            made.run(b"one\nunfinished")
            await until(lambda: len(found) == 2)
            writer = made.begin()
            writer.write(b"two\n")
            await until(lambda: len(found) == 3)
            writer.write(b"thr")
            writer.write(b"ee\n")
            await until(lambda: len(found) == 4)
            made.end()
            assert texts(found) == ["one", "unfinished", "two", "three"]
            assert [one.run for one in found] == [1, 1, 2, 2]
            assert not task.done()
            made.store.remove(A)
            await task

    run(test())


def test_a_removed_package_is_gone_even_if_it_is_installed_again_at_once() -> None:
    async def test() -> None:
        with runs() as made:
            made.run(b"old\n")
            with made.following() as (found, _, task):
                await until(lambda: len(found) == 1)
                made.store.remove(A)
                made.run(b"new\n")
                await task
                assert texts(found) == ["old"]
            assert await made.texts() == ["new"]

    run(test())


def test_follow_ends_with_the_connection() -> None:
    """A client that has only ended its own direction gets what is there."""

    async def test() -> None:
        with runs() as made:
            made.begin().write(b"one\n")
            with made.following() as (found, channel, task):
                await until(lambda: len(found) == 1)
                channel.end()
                await task
            with made.following() as (found, channel, task):
                channel.end()
                await task
                assert texts(found) == ["one"]

    run(test())


def test_follow_ends_with_the_runtime_after_what_is_there() -> None:
    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            with made.following() as (found, _, task):
                await asyncio.sleep(0)
                writer.write(b"bye\n", 1, NOW + 5)
                made.end()
                await made.store.close(20)
                await asyncio.sleep(0)
                assert task.done()
                assert texts(found) == ["bye"]
            with made.following() as (found, _, task):
                await task
                assert texts(found) == ["bye"]

    run(test())


def test_a_client_that_does_not_read_does_not_stop_the_end() -> None:
    async def test() -> None:
        with runs() as made:
            made.run(b"one\ntwo\n")
            with made.following() as (found, channel, task):
                channel.pause()
                await until(lambda: len(found) == 1)
                await made.store.close(0.05)
                assert not task.done()
                channel.lost()
                await task

    run(test())


def test_a_client_that_reads_nothing_is_overtaken() -> None:
    """Its memory does not grow, and it gets the exact count of what it missed."""

    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            line = b"x" * 79 + b"\n"
            with made.following() as (found, channel, _):
                channel.pause()
                for _ in range(100):
                    writer.write(line)
                await until(lambda: len(found) == 1)
                tracemalloc.start()
                try:
                    for _ in range(20):
                        for _ in range(1000):
                            writer.write(line)
                        await asyncio.sleep(0)
                    grown, _ = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                assert grown < 100_000
                assert len(found) == 1
                channel.resume()
                writer.write(b"last\n")
                await until(lambda: texts(found)[-1] == "last")
                lost = [one for one in found if isinstance(one, LogLost)]
                assert len(lost) == 1
                assert lost[0].lost > 1_500_000
                read = sum(len(one.text) + 1 for one in found if isinstance(one, LogLine))
                assert read + lost[0].lost == 20_100 * 80 + 5

    run(test())


def test_read_and_lost_are_what_was_written_with_any_pauses() -> None:
    """Runs of any length, and a client that stops to read at any time."""

    async def schedule(seed: int) -> None:
        chance = random.Random(seed)
        with (
            runs(kept=chance.choice([0, 3000, 2**20])) as made,
            made.following() as (found, channel, task),
        ):
            await asyncio.sleep(0)
            written = 0
            for _ in range(4):
                writer = made.begin()
                for _ in range(chance.randrange(300)):
                    data = b"x" * chance.randrange(300) + b"\n"
                    writer.write(data, chance.choice([1, 2]))
                    written += len(data)
                    if chance.random() < 0.1:
                        await asyncio.sleep(0)
                    if chance.random() < 0.05:
                        chance.choice([channel.pause, channel.resume])()
                made.end()
                await asyncio.sleep(chance.choice([0, 0.003]))
            channel.resume()
            made.begin().write(b"last\n")
            written += 5
            await until(lambda: found and texts(found)[-1] == "last")
            total = sum(
                len(one.text) + 1 if isinstance(one, LogLine) else one.lost for one in found
            )
            assert total == written, f"seed {seed}"
            assert not task.done()

    async def test() -> None:
        for seed in range(60):
            await schedule(seed)

    run(test())


def test_the_last_lines_while_the_writer_overtakes_the_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was counted is overwritten before it is skipped: it is counted again."""
    monkeypatch.setattr(log_requests, "HELD_MAX", 0)

    async def test() -> None:
        with runs() as made:
            writer = made.begin()

            def flood() -> None:
                for number in range(300):
                    writer.write(b"%099d\n" % number, 1, NOW - 1)

            flood()
            store, calls = made.store, 0
            original = store.runs

            async def overtaken(container: Container) -> tuple[Run, ...]:
                nonlocal calls
                calls += 1
                if calls == 3:  # the second reading begins
                    flood()
                return await original(container)

            store.runs = overtaken  # type: ignore[method-assign]
            found = await made.read(lines=5)
            assert calls > 3
            assert texts(found) == [f"{number:099d}" for number in range(295, 300)]

    run(test())


def test_others_are_served_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long log is sent in turns."""
    monkeypatch.setattr(log_requests, "TURN", 0.0005)

    async def test() -> None:
        with runs() as made:
            writer = made.begin(capacity=2**20)
            for _ in range(10):
                writer.write(b"\n" * 16000)
            turns = 0
            task = asyncio.ensure_future(made.read())
            begun = time.monotonic()
            while not task.done():
                await asyncio.sleep(0)
                turns += 1
            assert len(task.result()) == 160_000
            # At least one in 50 ms, on a loaded machine too.
            assert turns > (time.monotonic() - begun) / 0.05

    run(test())


def test_a_ring_that_is_given_up() -> None:
    """What was read stays; the next run begins a new log, whose cursors are new."""

    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            writer.write(b"one\n")
            with made.following() as (found, _, _):
                await until(lambda: len(found) == 1)
                writer.write(b"never read\n")
                made.break_ring()
                assert await made.read() == []
                made.end()
                made.run(b"two\n")
                await until(lambda: texts(found)[-1] == "two")
                [first, *_, last] = found
                assert isinstance(first, LogLine)
                assert isinstance(last, LogLine)
                assert Cursor.parse(first.cursor).log != Cursor.parse(last.cursor).log
                assert await made.texts() == ["two"]

    run(test())


def test_nothing_is_armed_without_a_reader() -> None:
    async def test() -> None:
        with runs() as made:
            writer = made.begin()
            writer.write(b"one\n")
            with made.following() as (found, _, task):
                await until(lambda: len(found) == 1)
                ring, _ = made._open[-1]
                assert ring._listeners
                task.cancel()
                await asyncio.wait([task])
                assert not ring._listeners
            assert await made.texts() == ["one"]
            assert not ring._listeners

    run(test())
