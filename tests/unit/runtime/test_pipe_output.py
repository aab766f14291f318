"""Output of debug commands: lines, floods and the end of the stream, over real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator

import pytest

from northstar.model import Container
from northstar.runtime import stdio
from northstar.runtime.pipe_output import PipeOutput
from northstar.runtime.ratelimit import TokenBucket
from northstar.runtime.stdio import CopySink, LineSink
from northstar.runtime.writer import Writer
from tests.unit.runtime.console.harness import run, until
from tests.unit.runtime.container_lines import collecting

A = Container.parse("a:1.0.0")


@contextlib.asynccontextmanager
async def printing() -> AsyncIterator[tuple[PipeOutput, int]]:
    """A container's output, and the write end of its pipe."""
    reader, printer = os.pipe()
    os.set_blocking(printer, False)
    pipe = PipeOutput(reader, LineSink(A))
    try:
        yield pipe, printer
    finally:
        with contextlib.suppress(OSError):
            os.close(printer)
        pipe.close()
        await until(lambda: pipe.ended)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(reader)


def flood(descriptor: int, data: bytes, limit: int = 2**30) -> int:
    """Print until the pipe is full; return the number of accepted bytes."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < limit:
            sent += os.write(descriptor, data[: limit - sent])
    return sent


def test_lines() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with printing() as (pipe, printer):
                os.write(printer, b"one\ntw")
                await until(lambda: lines.texts == ["one"])
                os.write(printer, b"o\r\n\n\xff\xc3\xbc\n\x1b[1m\tend")
                await until(lambda: len(lines.texts) == 4)
                assert lines.texts == ["one", "two", "", "\\xffü"]
                os.close(printer)
                await until(lambda: pipe.ended)
                assert lines.texts[4:] == ["\x1b[1m\tend"]
            for record in lines.records:
                assert record.levelno == logging.DEBUG
                assert record.__dict__["container"] == "a:1.0.0"

    run(test())


def test_a_flood_waits_in_its_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    burst = 1000 * (stdio.LINE_COST + 4)
    monkeypatch.setattr(stdio, "RATE", burst)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with collecting() as lines:
            async with printing() as (_, printer):
                begun = loop.time()
                sent = most = 0
                while len(lines.texts) < 1000 or loop.time() - begun < 0.2:
                    sent += flood(printer, b"line\n" * 1000)
                    before = len(lines.texts)
                    await asyncio.sleep(0)
                    most = max(most, len(lines.texts) - before)
                # Other tasks of the event loop ran after every step.
                assert most <= stdio.LINES_PER_STEP
                # The burst, the amount of the rate since then, and one step of overspending.
                seconds = loop.time() - begun
                assert len(lines.texts) <= 1010 * (1 + seconds) + stdio.LINES_PER_STEP
                # Other bytes stay in the pipe and its reader: the container waits, none is dropped.
                logged = sum(len(text) + 1 for text in lines.texts)
                assert sent - logged < 2**16 + 2 * stdio.CHUNK
                os.close(printer)
                # At the end of the container the remaining bytes are logged at once.
        left_out = sum(int(text[1:].split()[0]) for text in lines.texts if "left out" in text)
        logged = sum(len(text) + 1 for text in lines.texts if "left out" not in text)
        assert logged + left_out in (sent, sent + 1)

    run(test())


def test_all_pipes_share_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = stdio.LINE_COST + 1
    monkeypatch.setattr(stdio, "total_bucket", TokenBucket(rate=1.0, burst=100 * cost))

    async def test() -> None:
        with collecting() as lines:
            async with printing() as (_, one), printing() as (_, two):
                os.write(one, b"x\n" * 90)
                await until(lambda: len(lines.texts) == 90)
                os.write(two, b"x\n" * 500)
                await until(lambda: len(lines.texts) > 90)
                await asyncio.sleep(0.02)
                assert len(lines.texts) == 90 + stdio.LINES_PER_STEP
            assert len(lines.texts) == 590

    run(test())


def test_close_passes_on_remaining_bytes() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with printing() as (pipe, printer):
                os.write(printer, b"last\nwords")
                pipe.close()
                # Before `close` returns: the log line about the exit follows.
                assert lines.texts == ["last", "words"]
                assert pipe.ended
                pipe.close()

    run(test())


def test_many_remaining_bytes_at_close_do_not_delay_others() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with printing() as (pipe, printer):
                flood(printer, b"\n", stdio.DRAIN_LINES)
                pipe.close()
                assert not pipe.ended
                assert len(lines.texts) == stdio.STEPS_AT_CLOSE * stdio.LINES_PER_STEP
                await until(lambda: pipe.ended)
                assert lines.texts == [""] * stdio.DRAIN_LINES

    run(test())


def test_the_last_lines_of_a_flood_are_kept() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with printing() as (pipe, printer):
                data = b"".join(b"%d\n" % number for number in range(5000))
                sent = flood(printer, data, len(data))
                assert sent == len(data)
                pipe.close()
                await until(lambda: pipe.ended)
                first = 5000 - stdio.DRAIN_LINES
                left_out = sum(len(f"{number}\n") for number in range(first))
                assert lines.texts == [
                    f"({left_out} bytes of its output are left out here)",
                    *map(str, range(first, 5000)),
                ]

    run(test())


def test_another_process_with_the_write_end_cannot_keep_it_open() -> None:
    async def test() -> None:
        async with printing() as (pipe, printer):
            pipe.close()
            assert pipe.ended
            with pytest.raises(BrokenPipeError):
                os.write(printer, b"x")
        with collecting():
            async with printing() as (pipe, printer):
                flood(printer, b"x" * 4096)
                pipe.close()
                while not pipe.ended:
                    with contextlib.suppress(BrokenPipeError):
                        flood(printer, b"x" * 4096)
                    await asyncio.sleep(0)

    run(test())


def test_a_container_waits_while_the_output_of_the_runtime_is_stuck() -> None:
    async def test() -> None:
        reader, output = os.pipe()
        out = Writer(output)
        pipe_reader, printer = os.pipe()
        os.set_blocking(printer, False)
        pipe = PipeOutput(pipe_reader, CopySink(out))
        data = b"x" * 4096
        sent = 0
        unchanged = 0
        while unchanged < 200:
            took = flood(printer, data)
            sent += took
            unchanged = 0 if took else unchanged + 1
            await asyncio.sleep(0.001)
        assert out.backlog <= stdio.BACKLOG_MAX + stdio.CHUNK
        assert not out._lost.writes
        # As soon as it is read, all bytes arrive.
        loop = asyncio.get_running_loop()
        os.close(printer)
        got = 0
        while got < sent:
            got += len(await loop.run_in_executor(None, os.read, reader, 2**16))
        await until(lambda: pipe.ended)
        assert got == sent
        await until(lambda: not out.backlog)
        out.close(1.0)
        os.close(reader)
        os.close(output)

    run(test())
