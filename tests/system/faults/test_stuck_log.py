"""The log cannot be written: the runtime does not wait, and later the log continues."""

from __future__ import annotations

import fcntl
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.client import ConnectError
from northstar.model import Exited
from tests.system.containers import exit_of, install
from tests.system.faults.test_scarcity import NONE
from tests.system.faults.test_scarcity import allow as allow
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, wait_until

MAY_SKIP = (NONE,)
MAY_SKIP_IN_VM = (NONE,)

pytestmark = pytest.mark.root

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
"""linux/fs.h: freeze and thaw a file system."""


def up(runtime: RuntimeProcess) -> None:
    """Start a runtime whose log is not read."""
    runtime.start(wait=False)

    def answers() -> bool:
        try:
            with runtime.client() as client:
                client.ident()
        except ConnectError:
            return False
        return True

    wait_until(answers, "it answers")


class FifoLog:
    """A runtime whose stdout and stderr are a FIFO, which the test reads on demand."""

    def __init__(self, make_runtime: Any, directory: Path) -> None:
        fifo = directory / "fifo"
        os.mkfifo(fifo)
        redirect = f'exec "$@" 2<>{fifo} 1>&2'
        self.runtime: RuntimeProcess = make_runtime(
            start=False, wrap=("/bin/sh", "-c", redirect, "sh")
        )
        up(self.runtime)
        self._reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)

    def full(self) -> bool:
        """Return whether the FIFO is full."""
        poll = select.poll()
        poll.register(self._writer, select.POLLOUT)
        return not poll.poll(0)

    def read_until(self, words: str, times: int = 1) -> str:
        """Read until a text was read some number of times."""
        text = ""
        deadline = time.monotonic() + TIMEOUT
        while text.count(words) < times:
            assert time.monotonic() < deadline, text[-2000:]
            try:
                text += os.read(self._reader, 2**16).decode(errors="backslashreplace")
            except BlockingIOError:
                time.sleep(0.001)
        return text

    def close(self) -> None:
        """Stop reading."""
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def log(make_runtime: Any, tmp_path: Path) -> Iterator[FifoLog]:
    log = FifoLog(make_runtime, tmp_path)
    yield log
    log.close()


@pytest.fixture
def runtime(log: FifoLog) -> RuntimeProcess:
    """The runtime that `allow` limits."""
    return log.runtime


def answers(runtime: RuntimeProcess, times: int) -> None:
    """Check that a client receives quick answers."""
    with runtime.client() as client:
        for _ in range(times):
            begun = time.monotonic()
            client.list()
            assert time.monotonic() - begun < 2.0 * PATIENCE


@pytest.mark.parametrize("output", ["pipe", "inherit"])
def test_a_full_log_without_free_threads(
    log: FifoLog, payload: Path, allow: Any, output: str
) -> None:
    runtime = log.runtime
    io = {"stdout": output, "stderr": output}
    flood = install(runtime, payload, "flood", args="flood 0", io=io)
    quiet = install(runtime, payload, "quiet", args="pause")
    with runtime.client(subscribe=True) as client:
        client.start(flood)
        allow(0)
        wait_until(log.full, "the log is full")
        answers(runtime, 20)
        client.kill(flood, 9)
        exit_of(client, flood)
        allow(None)
        # The runtime's lines are kept too, until their buffer is full as well.
        for _ in range(20):
            client.start(quiet)
            client.kill(quiet, 9)
            exit_of(client, quiet)
        answers(runtime, 20)
        said = log.read_until("Container quiet:1.0.0 exited", 20)
        assert "Container flood:1.0.0 exited with status Signalled(SIGKILL)" in said
        client.start(quiet)
        log.read_until("Started quiet:1.0.0")
    assert "Traceback" not in said


def test_lost_log_lines_are_reported(log: FifoLog, payload: Path) -> None:
    runtime = log.runtime
    flood = install(runtime, payload, "flood", args="flood 0")
    # Long lines, to fill it quickly.
    other = install(runtime, payload, "n" * 240, init=None)
    with runtime.client(subscribe=True) as client:
        client.start(flood)
        wait_until(log.full, "the log is full")
        for _ in range(1200):
            client.mount(other)
            client.umount(other)
        client.kill(flood, 9)
        exit_of(client, flood)
        said = log.read_until("missing here")
        client.mount(other)
        client.umount(other)
        log.read_until(f"Umounted {other}")
    (lost,) = re.findall(
        r"WARN  runtime: (\d+) lines \(\d+ bytes\) of this log are missing here", said
    )
    told = len(
        re.findall(r"^\S+ INFO  runtime: (?:Mounted|Umounted) n+:1\.0\.0$", said, re.MULTILINE)
    )
    assert told + int(lost) >= 2400
    runtime.stop()


@pytest.fixture
def frozen_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A separate file system, and a descriptor of its root, to freeze it."""
    directory = tmp_path_factory.mktemp("disk")
    image, disk = directory / "image", directory / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    descriptor = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield disk, descriptor
    finally:
        os.close(descriptor)
        # The runtime of a failed test can then end.
        unmount = ["umount", "--lazy", str(disk)]
        subprocess.run(unmount, check=True)


def test_a_log_on_a_frozen_disk(
    frozen_disk: tuple[Path, int], make_runtime: Any, payload: Path
) -> None:
    disk, descriptor = frozen_disk
    runtime = make_runtime(start=False)
    runtime.log = disk / "log"
    runtime.start()
    container = install(runtime, payload, args="say hello ; exit 0")
    with runtime.client(subscribe=True) as client:
        fcntl.ioctl(descriptor, FIFREEZE, 0)
        try:
            for _ in range(3):
                client.start(container)
                exit_of(client, container)
            answers(runtime, 20)
        finally:
            fcntl.ioctl(descriptor, FITHAW, 0)
        runtime.wait_log(r"(?s)(Container app:1\.0\.0 exited.*){3}")
    assert runtime.text().count("DEBUG app:1.0.0: ") == 3
    runtime.stop()
    runtime.close()


def test_closed_streams_receive_no_log(make_runtime: Any, payload: Path) -> None:
    """The next open(2) would return the number of a closed stream."""
    close = 'exec "$@" 0<&- 1>&- 2>&-'
    runtime = make_runtime(start=False, wrap=("/bin/sh", "-c", close, "sh"))
    up(runtime)
    io = {"stdout": "inherit", "stderr": "pipe"}
    container = install(runtime, payload, args="say out ; cry err ; exit 3", io=io)
    streams = [os.readlink(f"/proc/{runtime.pid}/fd/{number}") for number in range(3)]
    assert streams == [os.devnull] * 3
    with runtime.client(subscribe=True) as client:
        client.start(container)
        assert exit_of(client, container) == Exited(3)
    runtime.stop()
