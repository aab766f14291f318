"""Output of containers: lines, and the way from a ring that the real writer fills to the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.manifest import Io, Output
from northstar.model import Container
from northstar.runtime import ring, stdio, writer
from northstar.runtime.bells import Bells
from northstar.runtime.logring import LogRing
from northstar.runtime.ratelimit import TokenBucket
from northstar.runtime.stdio import LINE_MAX, LineSink
from northstar.runtime.writer import Writer
from tests.unit.runtime.console.harness import run, until
from tests.unit.runtime.container_lines import collecting
from tests.unit.runtime.ring_writer import RingWriter

A = Container.parse("a:1.0.0")


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=50),
            st.sampled_from([b"\n", b"x" * (LINE_MAX - 1), b"x" * LINE_MAX, b"\xe2\x82"]),
            st.text(max_size=20).map(str.encode),
            st.just("€".encode() * (LINE_MAX // 2)),
        ),
        max_size=12,
    )
)
def test_no_byte_is_lost_with_any_chunks(pieces: list[bytes]) -> None:
    # Other tests cover carriage returns at the end of a line.
    pieces = [piece.replace(b"\r", b"") for piece in pieces]
    with collecting() as lines:
        sink = LineSink(A)
        for piece in pieces:
            sink.feed(piece)
            while sink.step()[1]:
                pass
        sink.finish()
    texts = iter(lines.texts)
    *ended, last = b"".join(pieces).split(b"\n")
    for line in ended + [last] * bool(last):
        whole = line.decode(errors="backslashreplace")
        text = next(texts)
        if len(line) <= LINE_MAX:
            assert text == whole
        while text != whole:
            # Split only where the line is too long.
            part = next(texts)
            assert part
            text += part
            assert whole.startswith(text)
    assert next(texts, None) is None


@pytest.mark.parametrize(
    ("printed", "lines_"),
    [
        (b"x" * LINE_MAX + b"\n", ["x" * LINE_MAX]),
        (b"x" * (LINE_MAX + 1) + b"\n", ["x" * LINE_MAX, "x"]),
        (b"x" * (LINE_MAX - 1) + "€\n".encode(), ["x" * (LINE_MAX - 1), "€"]),
        (b"x" * (LINE_MAX - 1) + b"\r" + b"y\n", ["x" * (LINE_MAX - 1) + "\r", "y"]),
        (b"\x80" * (LINE_MAX + 1) + b"\n", ["\\x80" * LINE_MAX, "\\x80"]),
    ],
    ids=["fits", "too long", "character", "carriage return", "junk"],
)
def test_long_lines_are_split(printed: bytes, lines_: list[str]) -> None:
    with collecting() as lines:
        sink = LineSink(A)
        sink.feed(printed)
        while sink.step()[1]:
            continue
        assert lines.texts == lines_


@pytest.mark.parametrize("junk", [b"\x1bx" * 2048, b"\x80x" * 2048, "\x85x".encode() * 1365])
def test_the_cost_of_binary_data_matches_its_duration(junk: bytes) -> None:
    """Escaping takes a hundred times as long: a step escapes fewer bytes, and the pipe waits."""
    with collecting() as lines:
        sink = LineSink(A)
        sink.feed((junk + b"\n") * 4)
        cost, more = sink.step()
        assert more
        assert len(lines.texts) == 1
        assert cost > 20 * len(junk)
        sink.feed(b"\n".join([b"\tplain"] * 10))
        while sink.step()[1]:
            continue
        assert sink.step() == (0, False)


def test_the_end_of_output_without_line_ends_is_kept() -> None:
    with collecting() as lines:
        sink = LineSink(A)
        sink.feed(b"x" * 2**20 + b"the reason")
        sink.trim()
        while sink.step()[1]:
            continue
        sink.finish()
        assert lines.texts[0].startswith(f"({2**20 + 10 - stdio.DRAIN_KEPT} bytes")
        assert "".join(lines.texts).endswith("the reason")


def test_an_endless_line_is_not_buffered() -> None:
    with collecting():
        sink = LineSink(A)
        for _ in range(100):
            sink.feed(b"x" * stdio.CHUNK)
            while sink.step()[1]:
                pass
            assert len(sink._buffer) <= LINE_MAX


# ---- From the ring to the log


class Run:
    """A run of a container: its ring, what init writes, and what the runtime passes on."""

    def __init__(self, io: Io, capacity: int) -> None:
        self.bells = Bells()
        self.ring = LogRing(A, 1, capacity, self.bells)
        self.init = RingWriter(self.ring)
        self.output = stdio.open_output(self.ring, io)

    def end(self) -> None:
        """Release as at the end of a container."""
        self.ring.finish()
        if self.output is not None:
            self.output.close()


@contextlib.asynccontextmanager
async def running(
    out: Output = Output.PIPE, err: Output = Output.PIPE, capacity: int = 2**20
) -> AsyncIterator[Run]:
    run_ = Run(Io(stdout=out, stderr=err), capacity)
    try:
        yield run_
    finally:
        run_.end()
        await until(lambda: run_.output is None or run_.output.ended)
        run_.init.close()
        run_.bells.close()
        assert run_.ring.memfd == run_.ring.bell == -1


def test_lines() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with running() as r:
                r.init.write(b"one\ntw")
                await until(lambda: lines.texts == ["one"])
                r.init.write(b"err", stream=2)
                r.init.write(b"o\r\n\n\xff\xc3\xbc\n\x1b[1m\tend")
                r.init.write(b"or\n", stream=2)
                await until(lambda: len(lines.texts) == 5)
                assert sorted(lines.texts[1:]) == sorted(["two", "", "\\xffü", "error"])
            assert lines.texts[5:] == ["\x1b[1m\tend"]
            for record in lines.records:
                assert record.levelno == logging.DEBUG
                assert record.__dict__["container"] == "a:1.0.0"

    run(test())


def test_output_below_the_log_level_is_not_even_looked_at() -> None:
    async def test() -> None:
        with collecting(logging.INFO) as lines:
            async with running() as r:
                assert r.output is None
                r.init.flood(100, 1, 100)
                with pytest.raises(BlockingIOError):
                    os.eventfd_read(r.ring.bell)
            async with running(err=Output.INHERIT) as r:
                assert r.output is not None
                assert set(r.output._sinks) == {2}
            assert lines.texts == []

    run(test())


def test_a_flood_is_logged_at_a_limited_rate_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container is never waited for: what is lost is said, to the byte."""
    burst = 1000 * (stdio.LINE_COST + 5)
    monkeypatch.setattr(stdio, "RATE", burst)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        sent = 0
        with collecting() as lines:
            async with running(capacity=65536) as r:
                begun = loop.time()
                most = 0
                while loop.time() - begun < 0.5:
                    for _ in range(20):
                        r.init.write(b"line\n" * 10)
                        sent += 50
                    before = len(lines.texts)
                    await asyncio.sleep(0)
                    most = max(most, len(lines.texts) - before)
                # Other tasks of the event loop ran after every step.
                assert most <= stdio.LINES_PER_STEP + 3
                seconds = loop.time() - begun
                assert len(lines.texts) <= 1100 * (1 + seconds) + stdio.LINES_PER_STEP
                assert r.output is not None
                assert r.output.lost > 0
            assert r.output.ended
        said = [int(text[1:].split()[0]) for text in lines.texts if "lost here" in text]
        assert sum(said) == r.output.lost
        assert said
        left_out = [int(text[1:].split()[0]) for text in lines.texts if "left out" in text]
        logged = sum(len(text) + 1 for text in lines.texts if text == "line")
        assert {text for text in lines.texts if "(" not in text} == {"line"}
        assert logged + sum(said) + sum(left_out) == sent

    run(test())


def test_a_gap_ends_an_unfinished_line() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with running(capacity=36864) as r:
                r.init.write(b"whole\nunfinished")
                r.init.write(b"error", stream=2)
                await until(lambda: lines.texts == ["whole"])
                # Within one turn of the event loop, so the reader cannot keep up.
                for number in range(1000):
                    r.init.write(b"%090d\n" % number)
                await until(lambda: lines.texts[-1:] == [f"{999:090}"])
                at = next(i for i, text in enumerate(lines.texts) if "lost here" in text)
                assert sorted(lines.texts[1 : at + 1]) == sorted(
                    ["unfinished", "error", lines.texts[at]]
                )
                assert r.output is not None
                assert lines.texts[at] == f"({r.output.lost} bytes of its output are lost here)"

    run(test())


def test_all_containers_share_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = stdio.LINE_COST + 1
    burst = 100 * cost + 2 * stdio.RECORD_COST
    monkeypatch.setattr(stdio, "total_bucket", TokenBucket(rate=1.0, burst=burst))

    async def test() -> None:
        with collecting() as lines:
            async with running() as one, running() as two:
                one.init.write(b"x\n" * 90)
                await until(lambda: len(lines.texts) == 90)
                two.init.write(b"x\n" * 500)
                await until(lambda: len(lines.texts) > 90)
                await asyncio.sleep(0.05)
                assert len(lines.texts) == 90 + stdio.LINES_PER_STEP
            assert len(lines.texts) == 590

    run(test())


def test_close_passes_on_remaining_bytes() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with running() as r:
                r.init.write(b"last\nwords")
                r.end()
                # Before `close` returns: the log line about the exit follows.
                assert lines.texts == ["last", "words"]
                r.end()

    run(test())


def test_many_remaining_lines_at_close_do_not_delay_others() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with running() as r:
                r.init.write(b"\n" * 5000)
                r.end()
                assert r.output is not None
                assert not r.output.ended
                assert len(lines.texts) <= stdio.STEPS_AT_CLOSE * stdio.LINES_PER_STEP
                await until(lambda: r.output is not None and r.output.ended)
                dropped = 5000 - stdio.DRAIN_LINES
                assert lines.texts[0] == f"({dropped} bytes of its output are left out here)"
                assert lines.texts[1:] == [""] * stdio.DRAIN_LINES

    run(test())


def test_inherit_copies_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        reader, output = os.pipe()
        own = {1: Writer(output)}
        monkeypatch.setattr(writer, "shared", own.__getitem__)
        data = os.urandom(5000) + b"no line end"
        async with running(out=Output.INHERIT, err=Output.DISCARD) as r:
            r.init.write(data)
            got = b""
            loop = asyncio.get_running_loop()
            while len(got) < len(data):
                got += await loop.run_in_executor(None, os.read, reader, 2**16)
            assert got == data
        own[1].close(1.0)
        os.close(reader)
        os.close(output)

    run(test())


def test_inherit_says_what_is_lost_while_the_output_of_the_runtime_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The output of a terminal or a pipe that nobody reads stops no container."""

    async def test() -> None:
        reader, output = os.pipe()
        out = Writer(output)
        monkeypatch.setattr(writer, "shared", {1: out}.__getitem__)
        sent = 0
        async with running(out=Output.INHERIT, err=Output.DISCARD, capacity=65536) as r:
            for _ in range(600):
                for _ in range(8):
                    r.init.write(b"x" * 1023 + b"\n")
                    sent += 1024
                await asyncio.sleep(0.001)
            assert out.backlog <= stdio.BACKLOG_MAX + stdio.CHUNK
            loop = asyncio.get_running_loop()
            got = b""
            while b"lost here" not in got:
                got += await loop.run_in_executor(None, os.read, reader, 2**16)
            assert r.output is not None
            r.end()
            os.set_blocking(reader, False)
            while out.backlog or not r.output.ended:
                with contextlib.suppress(BlockingIOError):
                    got += os.read(reader, 2**16)
                await asyncio.sleep(0.001)
            with contextlib.suppress(BlockingIOError):
                got += os.read(reader, 2**20)
            copied = sum(len(line) for line in got.splitlines(True) if line.startswith(b"x"))
            assert copied + r.output.lost == sent
            said = [int(line[1:].split()[0]) for line in got.splitlines() if line[:1] == b"("]
            assert sum(said) == r.output.lost
        out.close(1.0)
        os.close(reader)
        os.close(output)

    run(test())


@pytest.mark.parametrize("stream", [1, 2])
def test_inherit_goes_to_the_stream_of_the_same_name(
    stream: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        asked: list[int] = []
        shared: Callable[[int], Writer] = writer.shared

        def remember(number: int) -> Writer:
            asked.append(number)
            return shared(number)

        monkeypatch.setattr(writer, "shared", remember)
        outputs = [Output.DISCARD, Output.DISCARD]
        outputs[stream - 1] = Output.INHERIT
        async with running(outputs[0], outputs[1]):
            assert asked == [stream]

    run(test())


def test_a_ring_that_is_given_up_ends_the_copy() -> None:
    async def test() -> None:
        with collecting() as lines:
            async with running() as r:
                r.init.write(b"good\n")
                await until(lambda: lines.texts == ["good"])
                os.pwrite(r.ring.memfd, bytes(8), ring.HEAD_AT)
                r.init.end()
                await until(lambda: r.ring.broken)
                r.init.write(b"unseen\n")
            assert lines.texts == ["good"]

    run(test())
