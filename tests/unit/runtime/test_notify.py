"""Notify sockets: bound, read at a limited rate, drained, removed. Real sockets in a directory."""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from northstar.linux import sysctl
from northstar.model import Container, LaunchError
from northstar.model.notify import MESSAGE_SIZE_MAX, NotifyMessage
from northstar.runtime import notify
from northstar.runtime.directories import _make_all, notify_directory
from northstar.runtime.notify import MESSAGES_PER_SECOND, NotifySocket

APP = Container.parse("app:1.0.0")
READY = NotifyMessage(ready=True)
PING = NotifyMessage(watchdog=True)

Make = Callable[..., NotifySocket]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Bind sockets that are closed at the end; nothing of them may stay."""
    with contextlib.ExitStack() as stack:

        def bind(container: Container = APP, run_dir: str = str(tmp_path)) -> NotifySocket:
            return stack.enter_context(notify.bind(run_dir, container))

        yield bind
    assert not (tmp_path / "notify").exists()


@contextlib.contextmanager
def sender(bound: NotifySocket, *, blocking: bool = False) -> Iterator[socket.socket]:
    """Yield a socket that is connected to a notify socket at a path of any length."""
    directory = os.open(bound.directory, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(f"/proc/self/fd/{directory}/socket")
            sock.setblocking(blocking)
            yield sock
    finally:
        os.close(directory)


def send(bound: NotifySocket, *messages: bytes) -> None:
    for message in messages:
        with sender(bound) as sock:
            sock.send(message)


def fill(sock: socket.socket) -> int:
    """Send until the queue is full; return how many messages it took."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"STATUS=%d" % sent)
            sent += 1
    return sent


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110, it depends on the kernel
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("umask", [0, 0o777], ids=oct)
def test_modes_do_not_depend_on_the_umask(make: Make, umask: int) -> None:
    before = os.umask(umask)
    try:
        bound = make()
    finally:
        os.umask(before)
    paths = (os.path.dirname(bound.directory), bound.directory, f"{bound.directory}/socket")
    modes = [os.lstat(path).st_mode for path in paths]
    assert modes == [stat.S_IFDIR | 0o700, stat.S_IFDIR | 0o755, stat.S_IFSOCK | 0o666]


def test_the_socket_has_the_directory_that_plans_bind(make: Make, tmp_path: Path) -> None:
    assert make().directory == notify_directory(str(tmp_path), APP) == f"{tmp_path}/notify/{APP}"


def deep(tmp_path: Path, length: int) -> str:
    """Create a directory whose path has `length` bytes."""
    path = str(tmp_path)
    while len(path) < length:
        path += "/" + "d" * min(200, length - len(path) - 1)
        if len(path) == length - 1:  # a slash alone would not count
            path += "d"
    _make_all(path)
    return path


def test_paths_of_any_length(make: Make, tmp_path: Path) -> None:
    short, long = Container.parse("app:1.0.0"), Container.parse(f"{'n' * 249}:1.0.0")
    for length, container in ((4000, short), (3800, long)):
        bound = make(container, deep(tmp_path, length))
        send(bound, b"READY=1")
        assert bound.drain() == [READY]
        bound.close()
    (top,) = [path for path in tmp_path.iterdir() if path.name.startswith("d")]
    assert top.is_dir()


def test_a_path_that_is_too_long_is_refused_in_words(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for length, name in ((4085, "a"), (1000, "n" * 250)):
        run_dir = deep(tmp_path, length)
        with pytest.raises(LaunchError, match=r"make the notify socket.*ENAMETOOLONG"):
            notify.bind(run_dir, Container.parse(f"{name}:1.0.0"))
        assert not os.path.exists(f"{run_dir}/notify")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_failed_clean_up_left_is_replaced(make: Make) -> None:
    old = make()
    # While it is open, its number is not used again.
    left = os.open(old.directory, os.O_PATH)
    new = make()
    assert not os.path.samestat(os.fstat(left), os.stat(new.directory))
    os.close(left)
    send(new, b"READY=1")
    assert (old.drain(), new.drain()) == ([], [READY])


def test_a_directory_with_other_files_is_kept(make: Make, tmp_path: Path) -> None:
    make(Container.parse("other:1.0.0"))
    there = tmp_path / "notify" / str(APP)
    there.mkdir()
    (there / "file").touch()
    with pytest.raises(LaunchError, match="ENOTEMPTY"):
        make()
    assert os.listdir(there) == ["file"]
    (there / "file").unlink()
    make()


@pytest.mark.parametrize("kind", ["file", "link", "mode"])
def test_a_notify_directory_of_another_program_is_not_used(tmp_path: Path, kind: str) -> None:
    top = tmp_path / "notify"
    (tmp_path / "elsewhere").mkdir(0o700)
    match kind:
        case "file":
            top.touch(0o700)
        case "link":
            top.symlink_to("elsewhere")
        case _:
            top.mkdir(0o755)
    before = top.lstat()
    with pytest.raises(LaunchError, match="not a directory of the runtime") as caught:
        notify.bind(str(tmp_path), APP)
    assert caught.value.hint == "remove or rename it"
    assert top.lstat() == before
    assert os.listdir(tmp_path / "elsewhere") == []


def test_messages_are_received_in_order_and_those_before_the_begin_too(make: Make) -> None:
    received: list[NotifyMessage] = []

    async def run() -> None:
        bound = make()
        send(bound, b"STATUS=early", b"UNKNOWN=1", b"", b"\xff\0\n")
        bound.begin(received.append)
        await until(lambda: len(received) == 1)
        send(bound, b"READY=1\nSTATUS=late", b"STOPPING=1")
        await until(lambda: len(received) == 3)
        bound.close()

    asyncio.run(run())
    assert received == [
        NotifyMessage(status="early"),
        NotifyMessage(ready=True, status="late"),
        NotifyMessage(stopping=True),
    ]


def test_the_queue_holds_as_many_messages_as_drain_reads(make: Make) -> None:
    bound = make()
    with sender(bound) as sock:
        most = fill(sock)
        assert most == sysctl.max_dgram_qlen() + 1
        assert bound.drain() == [NotifyMessage(status=str(number)) for number in range(most)]
        assert bound.drain() == []


def test_drain_while_a_sender_refills_the_queue(make: Make) -> None:
    """One call reads at most one queue, and all calls together not much more than the rate."""
    bound = make()
    stop = threading.Event()

    def flood() -> None:
        with sender(bound, blocking=True) as sock:
            sock.settimeout(0.05)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    sock.send(b"WATCHDOG=1")

    thread = threading.Thread(target=flood)
    begun = time.monotonic()
    thread.start()
    try:
        queue, total = sysctl.max_dgram_qlen() + 1, 0
        while total < 2 * queue:
            messages = bound.drain()
            assert len(messages) <= queue
            total += len(messages)
            # The first queue is free, and the last one may exceed the rate.
            assert total <= 2 * queue + MESSAGES_PER_SECOND * (time.monotonic() - begun)
    finally:
        stop.set()
        thread.join()


def test_drain_reads_again_after_a_flood(make: Make) -> None:
    bound = make()
    with sender(bound) as sock:
        while fill(sock) and bound.drain():
            pass
    deadline = time.monotonic() + 30
    while not (messages := bound.drain()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert len(messages) == sysctl.max_dgram_qlen() + 1


def test_at_most_a_hundred_messages_a_second_are_read(make: Make) -> None:
    """The times are lower bounds: they hold on a machine of any speed."""
    times: list[float] = []

    async def run() -> float:
        loop = asyncio.get_running_loop()
        bound = make()
        begun = loop.time()

        def flood() -> None:
            with sender(bound, blocking=True) as sock:
                for _ in range(2 * MESSAGES_PER_SECOND + 1):
                    sock.send(b"WATCHDOG=1")

        bound.begin(lambda _: times.append(loop.time()))
        thread = threading.Thread(target=flood)
        thread.start()
        await until(lambda: len(times) > 2 * MESSAGES_PER_SECOND)
        thread.join()
        bound.close()
        return begun

    begun = asyncio.run(run())
    assert times[MESSAGES_PER_SECOND] - begun >= 1.0
    assert times[2 * MESSAGES_PER_SECOND] - begun >= 2.0


def test_the_socket_is_not_watched_while_the_limit_is_used_up(make: Make) -> None:
    received: list[NotifyMessage] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        bound = make()
        bound.begin(received.append)
        with sender(bound) as sock:
            while bound._pause is None:
                fill(sock)
                await asyncio.sleep(0)
            count = len(received)
            assert not loop.remove_reader(bound._socket.fileno())
            # The rest is not lost: a decision reads it now.
            assert len(bound.drain()) > 0
            assert len(received) == count == MESSAGES_PER_SECOND
        bound.close()

    asyncio.run(run())


def test_a_pause_ends(make: Make) -> None:
    received: list[NotifyMessage] = []

    async def run() -> None:
        bound = make()
        bound.begin(received.append)
        with sender(bound) as sock:
            while bound._pause is None:
                fill(sock)
                await asyncio.sleep(0)
        bound.drain()
        send(bound, b"READY=1")
        await until(lambda: READY in received)
        assert bound._pause is None
        bound.close()

    asyncio.run(run())


def test_long_messages_are_ignored_with_one_warning(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bound = make()
    longest = b"READY=1\n" + b"x" * (MESSAGE_SIZE_MAX - 8)
    send(bound, longest)
    assert bound.drain() == [READY]
    assert caplog.records == []
    send(bound, longest + b"x", b"READY=1\n" + b"y" * 100_000, b"WATCHDOG=1")
    with caplog.at_level(logging.WARNING):
        assert bound.drain() == [PING]
    (record,) = caplog.records
    text = "app:1.0.0: ignoring notify messages of more than 4096 bytes"
    assert record.getMessage() == text


def test_descriptors_are_closed_by_the_kernel(make: Make) -> None:
    bound = make()
    before = sorted(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    with sender(bound) as sock:
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer] * 253))]
        sock.sendmsg([b"READY=1\nFDSTORE=1"], passed)
        os.close(writer)
        assert bound.drain() == [READY]
    # No process has the writer any more. sd_notify_barrier(3) waits for this end of file.
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_close_removes_the_files_in_each_state(make: Make, tmp_path: Path) -> None:
    async def run() -> None:
        unread, watched, paused = bound
        watched.begin(lambda _: None)
        paused.begin(lambda _: None)
        with sender(paused) as sock:
            while paused._pause is None:
                fill(sock)
                await asyncio.sleep(0)
        for each in (unread, watched, paused):
            left.append(os.listdir(tmp_path / "notify"))
            each.close()
            each.close()
            assert each.drain() == []
        await asyncio.sleep(0)

    names = ["a:1.0.0", "b:1.0.0", "c:1.0.0"]
    bound = [make(Container.parse(name)) for name in names]
    left: list[list[str]] = []
    asyncio.run(run())
    assert [sorted(each) for each in left] == [names, names[1:], names[2:]]
    assert not (tmp_path / "notify").exists()


def test_files_that_another_program_removed_are_no_error(make: Make) -> None:
    bound, other = make(), make(Container.parse("other:1.0.0"))
    os.unlink(f"{bound.directory}/socket")
    bound.close()
    os.unlink(f"{other.directory}/socket")
    os.rmdir(other.directory)
    os.rmdir(os.path.dirname(other.directory))
    other.close()


def test_a_file_that_was_added_is_kept_and_reported(make: Make) -> None:
    bound = make()
    added = Path(bound.directory) / "file"
    added.touch()
    with pytest.raises(OSError, match="Directory not empty"):
        bound.close()
    assert added.exists()
    added.unlink()
    notify.remove(bound.directory)
