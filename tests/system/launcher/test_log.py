"""The output of a payload: what init moves into the ring, and what it holds for that."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from northstar.launch.plan_ops import NO_OPERATION, Op, Report, Step
from northstar.linux import memfd
from northstar.model import Container
from northstar.runtime import ring
from northstar.runtime.bells import Bells
from northstar.runtime.logring import LogRing
from northstar.runtime.ring import Record
from tests.system.conftest import compile_static
from tests.system.launcher import driver
from tests.system.launcher.driver import (
    DEADLINE,
    PROC,
    Image,
    Launch,
    Operation,
    encode,
    eventually,
    operations,
)

pytestmark = pytest.mark.root

CAPACITY = 256 * 1024
BELLS = Bells()
CONTAINER = Container.parse("app:1.0.0")
RING, BELL, READ_OUT, READ_ERR, OUT, ERR = range(3, 9)
"""Indices of the descriptors: 1 and 2 are those of the driver."""
LOG: Operation = (Op.LOG, RING, BELL, READ_OUT, READ_ERR)


@pytest.fixture(scope="session")
def printer(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, with the program /output."""
    source = Path(__file__).parents[1] / "output.c"
    program = compile_static(source, tmp_path_factory.mktemp("output") / "output")
    image.add("output", program.read_bytes())
    return image


def plan(image: Image, steps: Sequence[str], log: Operation = LOG, **options: Any) -> bytes:
    options = {"descriptors": (2, OUT, ERR), "argv": ["/output", *steps], **options}
    listed = operations(image, **options)
    at = next(i for i, operation in enumerate(listed) if operation[0] == Op.AWAIT)
    return encode([*listed[:at], log, *listed[at:]])


class Logged:
    """A launch with a ring, which the test reads like the runtime."""

    def __init__(self, program: int, image: Image, *steps: str, **options: Any) -> None:
        self.ring = LogRing(CONTAINER, 1, CAPACITY, BELLS)
        pipes = [os.pipe(), os.pipe()]
        reads, writes = zip(*pipes, strict=True)
        self.position = 0
        try:
            passed = [self.ring.memfd, self.ring.bell, *reads, *writes]
            self.launch = Launch(program, plan(image, steps, **options), passed)
        finally:
            for descriptor in (*reads, *writes):
                os.close(descriptor)

    def start(self) -> Self:
        self.launch.expect(Report.LAUNCHED, Report.READY)
        self.ring.open()
        self.launch.go()
        self.launch.expect(Report.STARTED)
        return self

    def read(self) -> list[Record]:
        """Return what is new, up to the head."""
        records: list[Record] = []
        while (batch := self.ring.read(self.position)).records:
            records += batch.records
            self.position = batch.position
        assert not self.ring.broken
        return records

    def until(self, condition: Callable[[bytes], object], stream: int = 1) -> bytes:
        """Read until the output of a stream fulfils a condition; return that."""
        data = b""

        def more() -> bool:
            nonlocal data
            data += b"".join(r.data for r in self.read() if r.stream == stream)
            return bool(condition(data))

        eventually(more, "the output")
        return data

    def close(self) -> None:
        self.launch.close()
        self.ring.finish()


@pytest.fixture
def logged(program: int, printer: Image) -> Iterator[Callable[..., Logged]]:
    made: list[Logged] = []
    descriptors = set(os.listdir("/proc/self/fd"))

    def make(*steps: str, **options: Any) -> Logged:
        made.append(Logged(program, printer, *steps, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors


def streams(records: list[Record]) -> tuple[bytes, bytes]:
    out, err = (b"".join(r.data for r in records if r.stream == s) for s in (1, 2))
    return out, err


def consistent(records: list[Record], offset: int = 0) -> int:
    """Check sums and times; return the bytes of output up to the end."""
    last = 0
    for record in records:
        assert record.offset == offset
        assert record.time >= last
        offset, last = record.offset + len(record.data), record.time
    return offset


def test_both_streams_and_every_byte(logged):
    every = bytes(range(256))
    run = logged("text:1:one", "every:2", "text:2:two", "every:1", "exit:3").start()
    assert run.launch.end().value == 3
    assert run.ring.ended
    records = run.read()
    assert streams(records) == (b"one\n" + every, every + b"two\n")
    assert consistent(records) == 4 + 256 + 256 + 4
    assert run.read() == []


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 16384, 65536])
def test_writes_of_each_size(logged, size):
    count = 3
    run = logged(f"write:1:{count * size}:{size}").start()
    run.launch.end()
    out, err = streams(run.read())
    line = bytes(ord("a") + i % 26 for i in range(size - 1)) + b"\n"
    assert out == line * count
    assert err == b""


def test_no_output_at_all(logged):
    run = logged("exit:0").start()
    run.launch.end()
    assert run.read() == []
    assert run.ring.ended


def test_the_payload_never_waits_and_the_newest_is_kept(logged):
    """Nobody reads: the payload writes 32 times the capacity all the same."""
    total = 32 * CAPACITY
    run = logged(f"write:1:{total}:80", "text:1:the end").start()
    run.launch.end()
    records = run.read()
    assert consistent(records, records[0].offset) == total // 80 * 80 + 80 * (total % 80 > 0) + 8
    assert records[-1].data.endswith(b"the end\n")
    # Records of 80 to 16384 bytes: the ring is full but for less than the largest.
    assert sum(len(r.data) + 24 for r in records) > CAPACITY // 2


def test_the_rest_is_read_after_the_end(logged):
    """A full pipe at the time of the exit is moved before the report of the exit."""
    for _ in range(20):
        run = logged("write:1:60000:60000", "write:2:60000:60000", "exit:7").start()
        run.launch.expect(Report.EXITED)
        out, err = streams(run.read())
        assert (len(out), len(err)) == (60000, 60000)
        assert run.ring.ended
        run.close()


def test_a_killed_init_leaves_what_it_has_moved(logged):
    run = logged("text:1:before", "pause").start()
    assert run.until(lambda data: data.endswith(b"\n")) == b"before\n"
    run.launch.kill(signal.SIGKILL)
    run.launch.wait()
    assert run.read() == []
    assert not run.ring.ended
    ended = run.ring.finish()
    assert [record.data for record in ended.read(0).records] == [b"before\n"]


def test_a_payload_that_closes_its_streams(logged):
    """init closes the pipes too, and does not spin on them."""
    run = logged("text:1:one", "close:1", "close:2", "pause").start()
    assert run.until(lambda data: data) == b"one\n"
    directory = f"/proc/{run.launch.pid}/fd"
    eventually(lambda: len(os.listdir(directory)) == 2, "init closes the pipes")
    before = ticks(run.launch.pid)
    assert not select.select([run.launch.stream], [], [], 0.5)[0]
    assert ticks(run.launch.pid) - before <= 2


def ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_streams_that_are_duplicated(logged):
    run = logged("dup:1:2", "text:2:to the first", "dup:2:7", "close:1", "text:7:again").start()
    run.launch.end()
    assert streams(run.read()) == (b"to the first\nagain\n", b"")


def test_a_child_that_keeps_the_pipe(logged):
    run = logged("child", "text:1:parent", "exit:4").start()
    assert run.launch.end().value == 4
    assert streams(run.read())[0] == b"parent\n"


def test_a_child_that_writes_without_end(logged):
    """The exit is reported although the pipe never becomes empty."""
    run = logged("grandchild:100000000000", "sleep:50", "exit:5").start()
    assert run.launch.end().value == 5
    assert run.ring.ended
    records = run.read()
    consistent(records, records[0].offset)


def test_a_flood_delays_no_exit_report(logged):
    run = logged("grandchild:100000000000", "grandchild:100000000000", "exit:6").start()
    assert run.launch.end().value == 6


def test_the_end_of_the_runtime_ends_a_flood(logged):
    run = logged("until:1:100000:80").start()
    run.until(lambda data: data)
    run.launch.stream.close()
    run.launch.wait()


def test_what_init_holds(logged):
    """The stream, the pipes and the bell; the ring only as a mapping, and the payload nothing."""
    run = logged("rings", "pause", mounts=[PROC]).start()
    assert run.until(lambda data: data.endswith(b"\n")) == b"rings 0\n"
    directory = Path(f"/proc/{run.launch.pid}")
    links = sorted(os.readlink(link).split(":")[0] for link in (directory / "fd").iterdir())
    assert links == ["anon_inode", "pipe", "pipe", "socket"]
    assert "memfd:northstar-log" in (directory / "maps").read_text()
    payload = next(pid for pid in run.launch.processes() if pid != run.launch.pid)
    assert "memfd" not in Path(f"/proc/{payload}/maps").read_text()
    assert len(os.listdir(f"/proc/{payload}/fd")) == 3


@pytest.mark.parametrize("which", [(READ_OUT, -1), (-1, READ_ERR)])
def test_one_stream_only(logged, which):
    run = logged("text:1:one", "text:2:two", log=(Op.LOG, RING, BELL, *which)).start()
    # Nobody reads the other pipe, which init has closed: SIGPIPE.
    report = run.launch.end()
    out, err = streams(run.read())
    if which[0] < 0:
        assert (report.number, report.value) == (1, signal.SIGPIPE)
        assert (out, err) == (b"", b"")
    else:
        assert (report.number, report.value) == (1, signal.SIGPIPE)
        assert (out, err) == (b"one\n", b"")


def test_the_bell_is_rung_only_if_a_reader_waits(logged):
    run = logged("text:1:one", "sleep:100", "text:1:two", "pause").start()
    run.until(lambda data: data.endswith(b"two\n"))
    with pytest.raises(BlockingIOError):
        os.eventfd_read(run.ring.bell)
    run.close()
    run = logged("sleep:300", "text:1:one", "text:1:two", "pause").start()
    os.pwrite(run.ring.memfd, (1).to_bytes(4, "little"), ring.ARMED_AT)
    assert select.select([run.ring.bell], [], [], DEADLINE)[0]
    run.until(lambda data: data.endswith(b"two\n"))
    assert os.eventfd_read(run.ring.bell) == 1
    assert os.pread(run.ring.memfd, 4, ring.ARMED_AT) == bytes(4)


def test_the_end_rings_always(logged):
    run = logged("exit:0").start()
    run.launch.end()
    assert os.eventfd_read(run.ring.bell) == 1


def test_a_bell_that_nobody_answers(logged):
    """A full counter blocks nobody."""
    run = logged("write:1:1000000:80", "exit:1").start()
    with contextlib.suppress(BlockingIOError):
        os.eventfd_write(run.ring.bell, 2**64 - 2)
    os.pwrite(run.ring.memfd, (1).to_bytes(4, "little"), ring.ARMED_AT)
    assert run.launch.end().value == 1


def test_init_without_a_log_holds_one_descriptor(launch):
    launched = launch("pause").start()
    assert len(os.listdir(f"/proc/{launched.pid}/fd")) == 1


def test_memory_of_the_ring_is_taken_as_it_is_used(logged):
    run = logged("text:1:x", "pause").start()
    run.until(lambda data: data)
    assert os.stat(run.ring.memfd).st_blocks * 512 == 2 * resource.getpagesize()


def test_a_whole_run_under_the_sanitizers(sanitized, printer):
    run = Logged(sanitized, printer, "write:1:3000000:80", "write:2:3000000:70000", "every:1")
    try:
        run.start()
        assert run.launch.end().value == 0
        records = run.read()
        total = consistent(records, records[0].offset)
        assert total >= 6_000_000
    finally:
        run.close()


# ---- Refused


def ring_file(size: int, seals: int) -> int:
    descriptor = memfd.create("northstar-log")
    os.ftruncate(descriptor, size)
    if seals:
        memfd.seal(descriptor, seals)
    return descriptor


SEALS = memfd.F_SEAL_SEAL | memfd.F_SEAL_SHRINK | memfd.F_SEAL_GROW
SIZE = ring.PAGE + CAPACITY
NO_SEALS = "the ring is not a memfd with the seals shrink, grow and seal only"


@pytest.mark.parametrize(
    ("size", "seals", "log", "words"),
    [
        (SIZE, 0, LOG, NO_SEALS),
        (SIZE, SEALS & ~memfd.F_SEAL_SHRINK, LOG, NO_SEALS),
        (SIZE, SEALS | memfd.F_SEAL_WRITE, LOG, NO_SEALS),
        (SIZE, SEALS, (Op.LOG, 1, BELL, READ_OUT, READ_ERR), NO_SEALS),
        (0, SEALS, LOG, "the ring has no valid size"),
        (ring.PAGE, SEALS, LOG, "the ring has no valid size"),
        (SIZE + 1, SEALS, LOG, "the ring has no valid size"),
        (ring.PAGE + 16384, SEALS, LOG, "the ring has no valid size"),
        (SIZE, SEALS, (Op.LOG, RING, BELL, -1, -1), "no pipe"),
        (SIZE, SEALS, (Op.LOG, RING, 9, 5, 6), "invalid bell"),
        (SIZE, SEALS, (Op.LOG, RING, -1, 5, 6), "invalid bell"),
        (SIZE, SEALS, (Op.LOG, RING, BELL, 5), "missing stderr"),
    ],
)
def test_a_log_that_is_refused(program, printer, size, seals, log, words):
    file = ring_file(size, seals)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with Launch(program, plan(printer, [], log), [file, bell, *[null] * 4]) as launched:
            report = launched.next()
            assert report is not None
            assert (report.kind, report.operation) == (Report.FAILED, NO_OPERATION)
            assert report.number == Step.PLAN
            assert report.text == f"operation 9 (LOG): {words}"
            assert driver.reap(launched.launcher)
            launched.launcher = 0
    finally:
        for descriptor in (file, bell, null):
            os.close(descriptor)
