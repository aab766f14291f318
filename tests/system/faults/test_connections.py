"""Many clients at once: their cost in memory and in time."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from northstar.client import blocking
from northstar.runtime.console import memory
from tests.system.containers import exit_of, install
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, wait_until

pytestmark = pytest.mark.root

MANY = 200
MIB = 2**20
CONNECT = b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n'
EACH = 48 * 1024
"""Maximal bytes of a connection besides its input: objects of the interpreter."""

LINES = memory.LINES + MANY * (EACH + memory.ALLOWANCE)
PACKAGES = memory.PACKAGES + MANY * (EACH + 2 * memory.ALLOWANCE)
OUTPUT = memory.REQUESTS + memory.OUTPUT + MANY * (EACH + 2 * memory.ALLOWANCE)
SLACK = 6 * MIB
"""Memory that the allocator keeps, and that of code that runs for the first time."""


def resident(runtime: RuntimeProcess) -> int:
    """Return the runtime's resident memory in bytes."""
    status = Path(f"/proc/{runtime.pid}/status").read_text()
    (kib,) = re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(kib)


@contextmanager
def streams(runtime: RuntimeProcess, *, connect: bool) -> Iterator[list[socket.socket]]:
    """Open many connections."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(MANY):
            stream = stack.enter_context(socket.socket(socket.AF_UNIX))
            stream.settimeout(TIMEOUT)
            stream.connect(runtime.url.removeprefix("unix://"))
            opened.append(stream)
            if connect:
                stream.sendall(CONNECT)
                assert stream.recv(100)
            stream.setblocking(False)
        yield opened


def send_all(opened: list[socket.socket], data: bytes, rounds: int) -> None:
    """Send the same data to all repeatedly, as much as each accepts."""
    left = dict.fromkeys(opened, memoryview(data))
    for _ in range(rounds):
        for stream in tuple(left):
            try:
                left[stream] = left[stream][stream.send(left[stream]) :]
            except BlockingIOError:
                continue
            except ConnectionError:
                del left[stream]
        time.sleep(0.01)


def growth(runtime: RuntimeProcess, opened: list[socket.socket], data: bytes, rounds: int) -> int:
    """Return the maximal growth of memory while all of them send."""
    before, most = resident(runtime), 0
    for _ in range(4):
        send_all(opened, data, rounds // 4)
        most = max(most, resident(runtime) - before)
    return most


@pytest.fixture
def warm(runtime: RuntimeProcess) -> RuntimeProcess:
    """A runtime that has served as many connections before."""
    with streams(runtime, connect=True):
        pass
    runtime.snapshot()
    return runtime


def test_clients_that_never_say_connect(warm: RuntimeProcess) -> None:
    with streams(warm, connect=False) as opened:
        grown = growth(warm, opened, b"x" * (MIB - 1), 80)
        assert grown < MANY * EACH + SLACK, f"{grown / MIB:.1f} MiB"
    with warm.client() as client:
        client.list()
    assert "a line is longer than 4096 bytes" in warm.text()


def test_lines_that_do_not_end(warm: RuntimeProcess) -> None:
    with streams(warm, connect=True) as opened:
        grown = growth(warm, opened, b"x" * (MIB - 1), 80)
        assert grown < LINES + SLACK, f"{grown / MIB:.1f} MiB"
        # Others are served meanwhile, also with a long request after the late ones are closed.
        begun = time.monotonic()
        with warm.client() as client:
            client.list()
        assert time.monotonic() - begun < 2.0 * PATIENCE
        # From another process, so that it is not the newest of this one.
        done = warm.nstar("mount", *["x:1.0.0"] * 5000, check=False)
        # A message of this length is cut in the middle: its end is the last answer.
        error, _hint = done.stderr.splitlines()
        assert error.endswith("x:1.0.0 is not installed")
    warm.wait_log("a long line is incomplete, and other connections wait for its memory")


def test_packages_that_are_not_stored(make_runtime: Any, tmp_path: Path) -> None:
    """On a slow disk all of them wait at the same time."""
    store = tmp_path / "store"
    store.mkdir()
    runtime = make_runtime(repositories={"fs": f'type = {{ fs = {{ dir = "{store}" }} }}'})
    with streams(runtime, connect=True):
        pass
    request = b'{"request":{"install":{"repository":"fs","size":%d}}}\n' % (64 * MIB)
    with streams(runtime, connect=True) as opened:
        grown = growth(runtime, opened, request + bytes(2 * MIB), 80)
        assert grown < PACKAGES + SLACK, f"{grown / MIB:.1f} MiB"
        with runtime.client() as client:
            client.list()


def test_answers_that_are_not_read(warm: RuntimeProcess) -> None:
    unknown = ",".join(f'"unknown-container-{n}:1.0.0"' for n in range(400))
    request = f'{{"request":{{"mount":{{"containers":[{unknown}]}}}}}}\n'.encode()
    with streams(warm, connect=True) as opened:
        grown = growth(warm, opened, request * 40, 200)
        assert grown < OUTPUT + SLACK, f"{grown / MIB:.1f} MiB"
        with warm.client() as client:
            client.list()


# ---- Connections that are opened and closed

FLOOD = """
import os, socket, struct, sys
os.nice(19)
path, kind = sys.argv[1:]
linger = struct.pack("ii", 1, 0)
print("ready", flush=True)
while True:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    if kind == "byte":
        stream.send(b"{")
    stream.close()
"""


@contextmanager
def flood(runtime: RuntimeProcess, kind: str) -> Iterator[None]:
    """Let another process open and close connections without end."""
    command = [sys.executable, "-c", FLOOD, runtime.url.removeprefix("unix://"), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def processor(runtime: RuntimeProcess) -> float:
    """Return the processor time that the runtime has used, in seconds."""
    fields = Path(f"/proc/{runtime.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def starts(client: blocking.Client, container: str, times: int = 15) -> float:
    """Return the median time of a start, in seconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        client.start(container)
        taken.append(time.perf_counter() - begun)
        exit_of(client, container)
    return statistics.median(taken)


@pytest.mark.parametrize("kind", ["close", "byte"])
def test_a_flood_of_connections(runtime: RuntimeProcess, payload: Path, kind: str) -> None:
    container = install(runtime, payload, args="exit 0")
    with runtime.client(subscribe=True) as client:
        quiet = starts(client, container)
        with flood(runtime, kind):
            # Until the burst allowance is used up.
            time.sleep(1.0)
            used, begun = processor(runtime), time.monotonic()
            time.sleep(2.0)
            share = (processor(runtime) - used) / (time.monotonic() - begun)
            # The quietest of three: other work on the machine is not the flood's.
            loud = min(starts(client, container) for _ in range(3))
            # A new client waits for the backlog, which the runtime drains continuously.
            begun = time.monotonic()
            with runtime.client(timeout=TIMEOUT) as other:
                other.list()
            waited = time.monotonic() - begun
    assert share < 0.4, f"{share:.0%} of a processor"
    assert loud <= 3 * quiet + 0.02 * PATIENCE, (quiet, loud)
    assert waited < 3.0 * PATIENCE
    assert "Traceback" not in runtime.text()


def test_connections_that_were_dropped(make_runtime: Any) -> None:
    """The next client does not wait for them, however they were closed."""
    runtime = make_runtime()
    path = runtime.url.removeprefix("unix://")
    linger = struct.pack("ii", 1, 0)
    for byte in (b"", b"{"):
        for number in range(1700):
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(path)
                if byte:
                    stream.send(byte)
                if number % 2:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        begun = time.monotonic()
        with runtime.client() as client:
            client.list()
        assert time.monotonic() - begun < 2.0 * PATIENCE
    wait_until(lambda: len(os.listdir(f"/proc/{runtime.pid}/fd")) < 60, "none is open")
