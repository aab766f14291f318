"""Output that may be stuck: nobody waits, little is lost, and what is lost is said."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from northstar.runtime import writer
from northstar.runtime.writer import Writer

LINE = b"x" * 999 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, output = os.pipe()
    yield reader, output
    for descriptor in (reader, output):
        os.close(descriptor)


def output_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "output"]


def fill(out: Writer) -> int:
    """Write until the pipe is full and something waits; return the lines."""
    lines = 0
    while not out.backlog:
        out.write(LINE)
        lines += 1
    return lines


def read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data


def ended() -> None:
    deadline = time.monotonic() + 10
    while output_threads():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_can_be_written_is_written_at_once(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    out = Writer(output)
    out.write(b"one\n")
    out.write(b"y" * 10_000)
    assert out.backlog == 0
    assert not output_threads()
    assert os.read(reader, 20_000) == b"one\n" + b"y" * 10_000


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stuck_reader_is_not_waited_for(pipe: tuple[int, int], blocking: bool) -> None:
    reader, output = pipe
    os.set_blocking(output, blocking)
    out = Writer(output)
    lines = fill(out)
    for number in range(100):
        out.write(b"%d\n" % number)
    # All is there, in order, and afterwards no thread is needed any more.
    rest = b"".join(b"%d\n" % number for number in range(100))
    assert read(reader, lines * len(LINE) + len(rest)) == LINE * lines + rest
    ended()
    assert out.backlog == 0
    out.write(b"direct\n")
    assert not output_threads()
    assert read(reader, 7) == b"direct\n"


def test_too_much_is_dropped_and_counted(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    out = Writer(output)
    out.note = b"%d lost\n".__mod__
    lines = fill(out)
    more = writer.LIMIT // len(LINE) + 50
    for _ in range(more):
        out.write(LINE)
    assert writer.LIMIT - len(LINE) <= out.backlog <= writer.LIMIT
    taken = b""
    while b"lost" not in taken:
        taken += os.read(reader, 2**16)
    whole, _, note = taken.rpartition(LINE)
    kept = len(whole + LINE) // len(LINE)
    assert whole + LINE == LINE * kept
    assert note == b"%d lost\n" % (lines + more - kept)
    assert kept < lines + more
    ended()


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, output = os.pipe()
    out = Writer(output)
    fill(out)
    os.close(reader)
    ended()
    out.write(b"nobody hears this\n")
    assert out.backlog == 0
    os.close(output)


def test_close_waits_but_not_for_ever(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    out = Writer(output)
    lines = fill(out)
    begun = time.monotonic()
    out.close(0.05)
    assert 0.04 < time.monotonic() - begun < 5
    assert out.backlog
    thread = threading.Thread(target=read, args=(reader, lines * len(LINE)))
    thread.start()
    out.close(10)
    assert out.backlog == 0
    thread.join()
    ended()


def test_many_threads_write_whole_lines(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    out = Writer(output)

    def write(letter: bytes) -> None:
        for _ in range(200):
            out.write(letter * 500 + b"\n")

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    lines = read(reader, 3 * 200 * 501).splitlines()
    assert sorted(lines) == [letter * 500 for letter in (b"a", b"b", b"c") for _ in range(200)]
    for thread in threads:
        thread.join()
    ended()


def test_order_while_a_slow_reader_gets_stuck_again_and_again(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    out = Writer(output)
    # Not too much at once, or some would be dropped.
    lines = [b"%d" % number + b"x" * 500 + b"\n" for number in range(writer.LIMIT // 600)]
    read_back: list[bytes] = []
    size = sum(map(len, lines))
    thread = threading.Thread(target=lambda: read_back.append(read(reader, size)))
    for line in lines[:200]:
        out.write(line)
    assert out.backlog
    thread.start()
    for line in lines[200:]:
        out.write(line)
    thread.join()
    assert read_back == [b"".join(lines)]
    ended()


def test_one_writer_for_a_descriptor(pipe: tuple[int, int]) -> None:
    assert writer.shared(pipe[1]) is writer.shared(pipe[1])
