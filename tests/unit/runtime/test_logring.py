"""The runtime's side of a ring, with the real writer beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from northstar.linux import memfd
from northstar.model import Container
from northstar.runtime import ring
from northstar.runtime.bells import INTERVAL, Bells
from northstar.runtime.logring import EndedRun, LogRing
from northstar.runtime.ring import Batch, Record
from tests.unit.runtime.console.harness import run, until
from tests.unit.runtime.ring_writer import RingWriter, compiled, pattern

A = Container.parse("app:1.0.0")
SMALL = 20480
"""Capacity of the smallest ring that the writer accepts: the largest record fits."""


@contextlib.contextmanager
def written(capacity: int = 65536) -> Iterator[tuple[LogRing, RingWriter]]:
    """A ring and its writer, and no descriptor afterwards."""
    bells = Bells()
    before = set(os.listdir("/proc/self/fd"))
    log = LogRing(A, 1, capacity, bells)
    with RingWriter(log) as writer:
        yield log, writer
    log.finish()
    assert set(os.listdir("/proc/self/fd")) == before
    bells.close()
    bells.close()


class Read(NamedTuple):
    """What a reader has read of one run."""

    records: int
    data: int
    lost: int


def account(batch: Batch, seen: Read) -> Read:
    """Check each byte of a batch, and count."""
    for record in batch.records:
        lost = record.offset - seen.data
        assert lost >= seen.lost
        assert record.data == PATTERN.at(record.offset, len(record.data))
        seen = Read(seen.records + 1, seen.data + len(record.data), lost)
    return seen


class _Pattern:
    """The pattern repeats after 2^28 bytes; the tests use the first ones only, made once."""

    def __init__(self) -> None:
        self._bytes = b""

    def at(self, offset: int, length: int) -> bytes:
        while len(self._bytes) < offset + length:
            self._bytes += pattern(len(self._bytes), 1 << 18)
        return self._bytes[offset : offset + length]


PATTERN = _Pattern()


def test_what_is_read_is_what_was_written() -> None:
    with written() as (log, writer):
        assert log.read(0) == Batch((), 0)
        every = bytes(range(256))
        for time_, (stream, data) in enumerate([(1, b"x"), (2, every), (1, b"no newline")], 1):
            writer.write(data, stream, time_)
        batch = log.read(0)
        assert batch.records == (
            Record(1, 1, 0, b"x"),
            Record(2, 2, 1, every),
            Record(1, 3, 257, b"no newline"),
        )
        assert log.read(batch.position) == Batch((), batch.position)
        writer.write(b"more")
        assert log.read(batch.position).records == (Record(1, 4, 267, b"more"),)
        assert not log.ended
        writer.end()
        assert log.ended


@pytest.mark.parametrize("size", [1, 7, 8, 9, 4095, 4096, 4097, 16383, 16384])
def test_records_of_each_size_wrap(size: int) -> None:
    with written(SMALL) as (log, writer):
        position = total = 0
        for number in range(3 * SMALL // (size + 24) + 3):
            data = bytes([number & 0xFF]) * size
            writer.write(data)
            batch = log.read(position)
            assert batch.records == (Record(1, number + 1, total, data),)
            position = batch.position
            total += size
        assert position > 2 * SMALL


def test_the_oldest_records_are_overwritten_and_counted() -> None:
    with written(SMALL) as (log, writer):
        for number in range(5000):
            writer.write(b"%04d" % number)
        batch = log.read(0, most=2**20)
        first = batch.records[0]
        assert [record.data for record in batch.records] == [
            b"%04d" % number for number in range(5000 - len(batch.records), 5000)
        ]
        assert first.offset == 4 * (5000 - len(batch.records))
        assert len(batch.records) == SMALL // 32


def test_a_read_is_limited_but_gives_at_least_one_record() -> None:
    with written() as (log, writer):
        writer.write(b"x" * 16384)
        writer.write(b"y" * 16384)
        batch = log.read(0, most=1)
        assert [record.data[:1] for record in batch.records] == [b"x"]
        assert log.read(batch.position, most=1).records[0].data == b"y" * 16384


def schedule(seed: int, pause: int) -> None:
    """One run: a writer thread at full speed, and a reader with random pauses."""
    rng = random.Random(seed)
    least, most = rng.choice([(1, 1), (1, 16), (1, 300), (4095, 4097), (1, 16384), (16384, 16384)])
    capacity = rng.choice([SMALL, 65536, 131072])
    count = min(3000, 4 * capacity // most + rng.randrange(300))
    with written(capacity) as (log, writer):
        thread = writer.flooding(count, least, most, pause=pause, seed=seed)
        seen, position = Read(0, 0, 0), 0
        while not log.ended:
            batch = log.read(position, rng.choice([1, 20000, 65536, 2**20]))
            assert batch.position >= position
            position = batch.position
            seen = account(batch, seen)
            if rng.randrange(4) == 0:
                time.sleep(rng.choice([0, 0, 0.0001, 0.001]))
        thread.join()
        log.finish()
        while (batch := log.read(position)).records:
            position = batch.position
            seen = account(batch, seen)
        assert not log.broken
        total = log.finish().position + log.finish().size
        assert position == total
        # Nothing is lost behind the newest record.
        assert seen.data + seen.lost == writer.total


@pytest.mark.parametrize("first", range(0, 1000, 50))
def test_read_and_lost_are_what_was_written_in_random_schedules(first: int) -> None:
    """A thousand schedules, with every byte compared."""
    for seed in range(first, first + 50):
        schedule(seed, pause=(0, 0, 30)[seed % 3])


def test_the_writer_under_the_thread_sanitizer(tmp_path: Path) -> None:
    # -Wno-tsan: it does not model fences. The fence orders the store of `tail` before the copy of
    # data, which the sanitizer does not see anyway: the reader gets the data by a system call.
    options = ("-g", "-O1", "-fsanitize=thread", "-Wno-tsan")
    program = compiled("ring_threads.c", tmp_path / "threads", *options)
    # Without randomization: the sanitizer needs fixed areas of the address space.
    done = subprocess.run(
        ["setarch", "-R", program, "5000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read" in done.stdout


def test_a_reader_in_another_thread_finds_no_torn_record(tmp_path: Path) -> None:
    program = compiled("ring_threads.c", tmp_path / "threads", "-O2")
    done = subprocess.run([program, "100000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Hostile content


CORRUPT = {
    "head goes back": (ring.HEAD_AT, 0),
    "head far away": (ring.HEAD_AT, 2**63),
    "head inside a record": (ring.HEAD_AT, 4),
    "tail behind head": (ring.TAIL_AT, 2**40),
    "no data": (ring.PAGE, 0),
    "endless": (ring.PAGE, 2**32 - 1),
    "time": (ring.PAGE + 8, 2**64 - 1),
    "sum": (ring.PAGE + 16, 1),
}


@pytest.mark.parametrize("what", CORRUPT)
def test_corrupt_content_is_given_up_once(what: str, caplog: pytest.LogCaptureFixture) -> None:
    offset, value = CORRUPT[what]
    with written() as (log, writer):
        writer.write(b"one")
        log.read(0)
        os.pwrite(log.memfd, value.to_bytes(8, "little"), offset)
        for _ in range(3):
            log.read(0)
        assert log.broken
        assert log.ended
        assert log.read(0) == Batch((), 0)
        assert log.finish().records == b""
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the log of app:1.0.0 is not itself any more" in caplog.text


def test_the_capacity_in_the_ring_is_not_used() -> None:
    with written() as (log, writer):
        os.pwrite(log.memfd, (2**40).to_bytes(8, "little"), 8)
        writer.write(b"one")
        assert log.read(0).records[0].data == b"one"


def test_a_sum_that_shrinks_between_two_reads_is_found() -> None:
    with written() as (log, writer):
        writer.write(b"x" * 100)
        position = log.read(0).position
        writer.write(b"y" * 100)
        os.pwrite(log.memfd, (0).to_bytes(8, "little"), ring.PAGE + position + 16)
        log.read(position)
        assert log.broken


def test_a_writer_on_a_scribbled_ring_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing but the ring is written, and the writer neither hangs nor crashes."""
    rng = random.Random(3)
    with written(SMALL) as (log, writer), open(os.dup(log.memfd), "wb", 0) as file:
        for _ in range(200):
            for _ in range(20):
                garbage = rng.choice([bytes(8), b"\xff" * 8, rng.randbytes(8)])
                at = rng.choice([64, 128, 192, 256, rng.randrange(512, SMALL // 8) * 8])
                os.pwrite(file.fileno(), garbage, at)
            writer.flood(rng.choice([1, 20]), 1, 3000, seed=rng.randrange(1000))
            log.read(0)
    assert len(caplog.records) == 1


# ---- Waiting


def armed(log: LogRing) -> bool:
    assert log._views is not None
    return log._views[1][ring.ARMED_AT // 4] == 1


def test_a_listener_is_notified_and_the_bell_wakes_it() -> None:
    async def test() -> None:
        with written() as (log, writer):
            calls = 0

            def more() -> None:
                nonlocal calls
                calls += 1

            assert not armed(log)
            listener = log.listen(more)
            await until(lambda: calls)
            await until(lambda: armed(log) and log._timer is None)
            for number in range(5):
                before = calls
                writer.write(b"x" * number + b"x")
                await until(lambda before=before: calls > before)  # type: ignore[misc]
                # Without more output it waits for the bell, not for a timer.
                await until(lambda: armed(log) and log._timer is None)
            before = calls
            writer.end()
            await until(lambda: calls > before)
            listener.close()
            listener.close()
            assert not armed(log)

    run(test())


def test_nobody_listens() -> None:
    async def test() -> None:
        with written() as (log, writer):
            writer.flood(1000, 1, 100)
            assert not armed(log)
            with pytest.raises(BlockingIOError):
                os.read(log.bell, 8)
            listener = log.listen(lambda: None)
            await until(lambda: armed(log))
            listener.close()
            writer.flood(1000, 1, 100)
            with pytest.raises(BlockingIOError):
                os.read(log.bell, 8)

    run(test())


def test_a_flood_causes_few_looks() -> None:
    """At most one in an interval, however often the bell is rung."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with written() as (log, writer):
            calls = 0

            def more() -> None:
                nonlocal calls
                calls += 1

            listener = log.listen(more)
            begun = loop.time()
            while loop.time() < begun + 0.5:
                writer.flood(50, 1, 100)
                os.eventfd_write(log.bell, 1)
                await asyncio.sleep(0)
            assert calls <= (loop.time() - begun) / INTERVAL + 2
            assert calls > 2
            listener.close()

    run(test())


def test_two_listeners_and_the_end() -> None:
    async def test() -> None:
        with written() as (log, writer):
            told: list[str] = []
            log.listen(lambda: told.append("a"))
            second = log.listen(lambda: told.append("b"))
            await until(lambda: {"a", "b"} <= set(told))
            second.close()
            await until(lambda: armed(log))
            told.clear()
            writer.write(b"x")
            await until(lambda: told)
            ended = log.finish()
            told.clear()
            await until(lambda: told)
            assert set(told) == {"a"}
            assert log.ended
            assert log.finish() is ended
            # A listener that comes later is notified as well.
            log.listen(lambda: told.append("late"))
            await until(lambda: "late" in told)

    run(test())


def test_a_broken_ring_notifies_its_listeners() -> None:
    async def test() -> None:
        with written() as (log, writer):
            told: list[bool] = []
            log.listen(lambda: told.append(log.broken))
            writer.write(b"x")
            os.pwrite(log.memfd, bytes(8), ring.PAGE)
            log.read(0)
            await until(lambda: True in told)

    run(test())


def test_the_bell_cannot_block_the_runtime() -> None:
    """The flag O_NONBLOCK is shared with init, which a payload may control. Nothing reads it."""

    async def test() -> None:
        with written() as (log, writer):
            calls: list[int] = []
            log.listen(lambda: calls.append(1))
            await until(lambda: armed(log) and log._timer is None)
            os.set_blocking(log.bell, True)
            calls.clear()
            os.eventfd_write(log.bell, 1)
            os.eventfd_read(log.bell)  # drained before the runtime looks
            writer.write(b"x")
            await until(lambda: calls)
            await until(lambda: log._timer is None)

    run(test())


# ---- The end


def test_the_rest_is_kept() -> None:
    with written(SMALL) as (log, writer):
        for number in range(5000):
            writer.write(b"%04d" % number)
        position = log.read(0).position
        writer.write(b"last")
        ended = log.finish()
        assert ended[:3] == (A, 1, log.started)
        assert ended.size == len(ended.records) == SMALL
        assert log.memfd == log.bell == -1
        records = ended.read(0).records
        assert records[-1] == Record(1, 5001, 20000, b"last")
        assert records[0].data == b"%04d" % (5001 - len(records))
        # Readers go on where they were.
        assert log.read(position).records == (Record(1, 5001, 20000, b"last"),)
        assert log.read(ended.position + ended.size).records == ()


def test_the_end_of_a_ring_that_init_never_wrote() -> None:
    bells = Bells()
    log = LogRing(A, 7, 65536, bells)
    assert not log.is_open
    assert log.finish() == EndedRun(A, 7, log.started, 0, b"")
    assert log.read(0) == Batch((), 0)


def test_corrupt_records_of_an_ended_run() -> None:
    ended = EndedRun(A, 1, 0, 64, b"\xff" * 64)
    assert ended.read(0) == Batch((), 128)
    assert ended.read(128) == Batch((), 128)


def test_the_ring_is_sealed_and_empty() -> None:
    log = LogRing(A, 1, 65536, Bells())
    with pytest.raises(PermissionError):
        os.ftruncate(log.memfd, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(log.memfd, 2**20)
    seals = memfd.seals(log.memfd)
    assert not seals & memfd.F_SEAL_WRITE
    assert seals & memfd.F_SEAL_SEAL
    # No page is allocated by making it, nor by reading.
    assert os.stat(log.memfd).st_blocks == 0
    os.pread(log.memfd, 65536, 4096)
    assert os.stat(log.memfd).st_blocks == 0
    log.finish()


def test_reading_allocates_no_page() -> None:
    with written(2**20) as (log, writer):
        writer.write(b"x")
        blocks = os.stat(log.memfd).st_blocks
        log.read(0, most=2**20)
        assert os.stat(log.memfd).st_blocks == blocks
        assert blocks == 2 * mmap.PAGESIZE // 512


def test_too_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    bells = Bells()
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(memfd, "create", fail)
    with pytest.raises(OSError, match="Too many"):
        LogRing(A, 1, 65536, bells)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_bell_that_cannot_be_watched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader looks now and then instead."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def test() -> None:
        caplog.set_level(logging.DEBUG)
        monkeypatch.setattr(Bells, "add", fail)
        monkeypatch.setattr("northstar.runtime.logring._RETRY", 0.03)
        with written() as (log, writer):
            calls: list[int] = []
            log.listen(lambda: calls.append(1))
            await until(lambda: "Cannot watch the log" in caplog.text)
            calls.clear()
            writer.write(b"x")
            await until(lambda: calls)

    run(test())
