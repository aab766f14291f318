"""Output that may be stuck: no caller waits, little is lost, and losses are reported."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from northstar.runtime import writer
from northstar.runtime.writer import Loss, Writer

LINE = b"x" * 999 + b"\n"
TIMEOUT = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, output = os.pipe()
    yield reader, output
    for descriptor in (reader, output):
        os.close(descriptor)


@contextlib.contextmanager
def writing(output: int) -> Iterator[Writer]:
    out = Writer(output)
    out.note = note
    try:
        yield out
    finally:
        out.close(0.0)


def note(lost: Loss) -> bytes:
    return b"%d lost, %d bytes\n" % lost


def promptly(act: Callable[[], object]) -> None:
    """Call a function that must never wait; if it hangs, the test fails and pytest continues."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive(), "it waits for a reader"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def fill(out: Writer) -> int:
    """Write until some data waits; return the number of lines."""
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


def write_lines(out: Writer, line: bytes, count: int) -> None:
    for _ in range(count):
        out.write(line)


def ended(out: Writer) -> None:
    out.close(TIMEOUT)
    until(lambda: not out._running)


def test_data_that_fits_into_a_pipe_is_written_at_once(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    with writing(output) as out:
        out.write(b"one\n")
        out.write(b"y" * 10_000)
        assert out.backlog == 0
        assert os.read(reader, 20_000) == b"one\n" + b"y" * 10_000


def test_data_for_a_terminal_or_the_journal_is_written_at_once() -> None:
    theirs, ours = socket.socketpair()
    controller, terminal = pty.openpty()
    with theirs, ours:
        for output, reader in ((ours.fileno(), theirs.fileno()), (terminal, controller)):
            with writing(output) as out:
                out.write(b"one")
                assert out.backlog == 0
                assert os.read(reader, 100) == b"one"
    os.close(controller)
    os.close(terminal)


def test_the_shared_description_is_unchanged(tmp_path: Path) -> None:
    """O_NONBLOCK would affect every process that shares it: they would lose output."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as ours:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        ours.connect(str(tmp_path / "socket"))
        theirs, _ = listener.accept()
        file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        ends = [os.pipe(), pty.openpty(), (theirs.detach(), ours.fileno()), (os.dup(file), file)]
        for reader, output in ends:
            before = fcntl.fcntl(output, fcntl.F_GETFL)
            with writing(output) as out:
                for _ in range(1000):
                    out.write(LINE)
                assert fcntl.fcntl(output, fcntl.F_GETFL) == before
                # Waiting data fails now, so that the thread ends.
                os.close(reader)
                out.close(TIMEOUT)
            ended(out)
            if output != ours.fileno():
                os.close(output)


def test_no_descriptor_is_left(pipe: tuple[int, int]) -> None:
    before = os.listdir("/proc/self/fd")
    out = Writer(pipe[1])
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    ended(out)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stuck_reader_is_not_waited_for(pipe: tuple[int, int], blocking: bool) -> None:
    reader, output = pipe
    os.set_blocking(output, blocking)
    with writing(output) as out:
        lines = fill(out)
        for number in range(100):
            out.write(b"%d\n" % number)
        # All lines arrived, in order.
        rest = b"".join(b"%d\n" % number for number in range(100))
        assert read(reader, lines * len(LINE) + len(rest)) == LINE * lines + rest
        until(lambda: not out._waiting)
        out.write(b"direct\n")
        assert not out.backlog
        assert read(reader, 7) == b"direct\n"


def test_a_terminal_that_stops_in_the_middle_of_a_write_is_not_waited_for() -> None:
    """A terminal with little space reports POLLOUT, and a larger write(2) to it blocks."""
    controller, terminal = pty.openpty()
    out = Writer(terminal)
    promptly(lambda: write_lines(out, b"y" * 100_000, 3))
    termios.tcflow(terminal, termios.TCOOFF)
    promptly(lambda: write_lines(out, LINE, 100))
    assert out.backlog
    begun = time.monotonic()
    promptly(lambda: out.close(0.1))
    assert time.monotonic() - begun < TIMEOUT
    termios.tcflow(terminal, termios.TCOON)
    got = 0
    while got < 300_000 + 100 * (len(LINE) + 1):  # the terminal puts a \r before each \n
        got += len(os.read(controller, 2**16))
    until(lambda: not out._running)
    assert not out.backlog
    os.close(controller)
    os.close(terminal)


def test_a_loss_is_reported_at_the_gap(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    with writing(output) as out:
        lines = fill(out)
        more = writer.LIMIT // len(LINE) + 50
        for _ in range(more):
            out.write(LINE)
        assert writer.LIMIT - len(LINE) <= out.backlog <= writer.LIMIT
        taken = b""
        while b"bytes\n" not in taken:
            taken += os.read(reader, 2**16)
        out.write(b"and on\n")
        while not taken.endswith(b"and on\n"):
            taken += os.read(reader, 2**16)
        whole, _, end = taken.rpartition(LINE)
        kept = len(whole + LINE) // len(LINE)
        assert whole + LINE == LINE * kept
        lost = lines + more - kept
        assert lost > 0
        assert end == note(Loss(lost, lost * len(LINE))) + b"and on\n"


def test_data_after_a_loss_follows_the_report(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    with writing(output) as out:
        fill(out)
        for _ in range(writer.LIMIT // len(LINE) + 50):
            out.write(LINE)
        # There is some space, but one gap is better than one after each line.
        read(reader, 100 * len(LINE))
        until(lambda: out.backlog < writer.LIMIT - 10 * len(LINE))
        out.write(b"early\n")
        taken = b""
        while out.backlog > writer.RESUME - 100:
            taken += os.read(reader, 2**12)
        out.write(b"late\n")
        while b"late\n" not in taken:
            taken += os.read(reader, 2**16)
    assert b"early" not in taken
    assert re.search(rb"x\n\d+ lost, \d+ bytes\nlate\n\Z", taken)


def test_a_closed_reader_is_no_error() -> None:
    reader, output = os.pipe()
    out = Writer(output)
    fill(out)
    os.close(reader)
    until(lambda: not out.backlog)
    out.write(b"nobody reads this\n")
    ended(out)
    assert out.backlog == 0
    os.close(output)


def test_a_returning_reader_reads_how_much_is_missing(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    output = os.open(fifo, os.O_WRONLY)
    with writing(output) as out:
        os.close(reader)
        for _ in range(3):
            out.write(LINE)
        until(lambda: not out.backlog)
        reader = os.open(fifo, os.O_RDONLY)
        out.write(b"again\n")
        expected = note(Loss(3, 3 * len(LINE))) + b"again\n"
        assert read(reader, len(expected)) == expected
        until(lambda: not out._waiting)
        out.write(b"direct\n")
        assert read(reader, 7) == b"direct\n"
    os.close(reader)
    os.close(output)


def run_script(script: str, *, read_stderr: bool, stderr: int = subprocess.PIPE) -> str:
    """Run a Python script; return its stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            if not read_stderr:
                # It reaches this point although its output is not read.
                assert os.read(process.stdout.fileno(), 100) == b"done\n"
            _, said = process.communicate(b"go on\n", timeout=TIMEOUT)
        finally:
            process.kill()
        assert process.returncode == 0, said
    return said.decode() if said else ""


def test_a_full_file_continues_when_there_is_space_again(tmp_path: Path) -> None:
    """RLIMIT_FSIZE truncates a write, like a full disk."""
    script = """if True:
        import resource, time
        from northstar.runtime.writer import Writer
        out = Writer(2)
        out.note = lambda lost: b"%d lost, %d bytes\\n" % lost
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
        for _ in range(10):
            out.write(b"x" * 999 + b"\\n")
        while out.backlog:
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        out.write(b"room\\n")
        out.close(10)
        """
    log = tmp_path / "log"
    with log.open("wb") as file:
        run_script(script, read_stderr=True, stderr=file.fileno())
    assert log.read_bytes() == LINE * 2 + b"x" * 500 + b"\n8 lost, 7500 bytes\nroom\n"


NO_THREADS = """if True:
    import encodings.unicode_escape, logging, os, resource, sys, time, traceback, _thread
    from northstar.runtime import logs, writer
    # The limit does not bind root, and no user of a user namespace who is root outside.
    os.setuid(65534)
    def allow(more):
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (hard if more else 1, hard))
    def none():
        try:
            _thread.start_new_thread(time.sleep, (0,))
        except RuntimeError:
            return
        raise AssertionError("there are threads")
    """


@pytest.mark.root
@pytest.mark.parametrize("limited", ["before", "after"])
def test_a_full_pipe_and_no_thread_available(limited: str) -> None:
    """The event loop must not write instead of a thread, and the log continues afterwards."""
    script = (
        NO_THREADS
        + f"""
    if {limited == "before"}:
        allow(False), none()
    logs.setup("info", environment={{}})
    logs.capture_streams()
    allow(False), none()
    log = logging.getLogger("northstar.runtime")
    for number in range(8000):
        log.info("%s", "x" * 200)
    log.info("%d", "no number")
    print("also by", "print", file=sys.stderr)
    os.write(1, b"done\\n")
    sys.stdin.readline()
    if {limited == "before"}:
        allow(True)
    while writer.shared(2)._pending:
        log.info("tick")
        time.sleep(0.01)
    log.info("recovered")
    """
    )
    lines = run_script(script, read_stderr=False).splitlines()
    kept = sum(line.endswith(" INFO  runtime: " + "x" * 200) for line in lines)
    (missing,) = (line for line in lines if "missing here" in line)
    (lost,) = re.findall(r"(\d+) lines \(\d+ bytes\) of this log are missing here", missing)
    assert kept + int(lost) in range(8002, 8010)
    assert lines[kept] is missing
    assert lines[-1].endswith("INFO  runtime: recovered")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_without_any_thread_the_end_of_the_process_writes(kind: str, tmp_path: Path) -> None:
    script = (
        NO_THREADS
        + """
    allow(False), none()
    logs.setup("info", environment={})
    logs.capture_streams()
    logging.getLogger("northstar.runtime").info("one")
    print("error: two", file=sys.stderr)
    """
    )
    if kind == "pipe":
        said = run_script(script, read_stderr=True)
    else:
        with (tmp_path / "log").open("wb") as file:
            run_script(script, read_stderr=True, stderr=file.fileno())
        said = (tmp_path / "log").read_text()
    one, two = said.splitlines()
    assert one.endswith("runtime: one")
    assert two == "error: two"


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
    ended(out)


def test_data_after_close_is_written_too(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    out = Writer(output)
    ended(out)
    out.write(b"late\n")
    assert read(reader, 5) == b"late\n"
    ended(out)


def test_deferred_data_is_written_together(tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = []
    path = tmp_path / "log"

    def call_later(seconds: float, call: Callable[[], object]) -> None:
        assert seconds == writer.DELAY
        calls.append(call)

    with path.open("wb") as file, writing(file.fileno()) as out:
        with out.deferred(call_later):
            out.write(b"1\n")
            out.write(b"2\n")
            assert len(calls) == 1, "one wake-up for all"
            time.sleep(0.05)
            calls.pop()()
            until(lambda: path.read_bytes() == b"1\n2\n")
            out.write(b"3\n")
            assert len(calls) == 1
            promptly(lambda: out.write(b"4\n"))
            until(lambda: path.read_bytes() == b"1\n2\n3\n4\n")
            out.write(b"5\n")
        until(lambda: path.read_bytes().endswith(b"5\n"))


def test_much_deferred_data_is_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    text = LINE * (writer.BATCH // len(LINE) + 1)
    with (
        path.open("wb") as file,
        writing(file.fileno()) as out,
        out.deferred(lambda _seconds, _call: None),
    ):
        out.write(text)
        until(lambda: path.stat().st_size == len(text))


def test_many_threads_write_whole_lines(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    with writing(output) as out:

        def write(letter: bytes) -> None:
            for _ in range(200):
                out.write(letter * 500 + b"\n")

        threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        lines = read(reader, 3 * 200 * 501).splitlines()
        assert sorted(lines) == [c * 500 for c in (b"a", b"b", b"c") for _ in range(200)]
        for thread in threads:
            thread.join()


def test_order_while_a_slow_reader_gets_stuck_again_and_again(pipe: tuple[int, int]) -> None:
    reader, output = pipe
    with writing(output) as out:
        # Few bytes at once, so that none are lost.
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


def test_one_writer_for_a_descriptor(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call creates no second writer, with another thread and descriptors."""
    monkeypatch.setattr(writer, "_shared", {})
    first = writer.shared(pipe[1])
    threads, descriptors = set(os.listdir("/proc/self/task")), set(os.listdir("/proc/self/fd"))
    assert writer.shared(pipe[1]) is first
    # Threads of earlier tests may end meanwhile.
    assert set(os.listdir("/proc/self/task")) <= threads
    assert set(os.listdir("/proc/self/fd")) <= descriptors
    ended(first)


def test_the_thread_takes_no_signals(pipe: tuple[int, int]) -> None:
    """The main thread blocks signals; a thread that accepts them would end the runtime early."""
    before = set(os.listdir("/proc/self/task"))
    with writing(pipe[1]) as out:
        (thread,) = set(os.listdir("/proc/self/task")) - before
        status = Path(f"/proc/self/task/{thread}/status").read_text()
        (blocked,) = re.findall(r"^SigBlk:\s+(\w+)$", status, re.MULTILINE)
        for number in (1, 2, 15):
            assert int(blocked, 16) >> (number - 1) & 1
        assert out._running
