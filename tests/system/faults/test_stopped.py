"""A runtime that was stopped (SIGSTOP) beyond its deadlines processes what arrived meanwhile."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from northstar.model import Exited
from northstar.runtime.console.connection import CLOSE_TIMEOUT, CONNECT_TIMEOUT
from tests.system import host
from tests.system.containers import exit_of, install, wait_ready
from tests.system.harness import TIMEOUT, RuntimeProcess, manifest, pack, wait_until

pytestmark = pytest.mark.root

CONNECT = b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n'
ACK = b'{"connect_ack":null}\n'


@contextmanager
def stopped(runtime: RuntimeProcess, seconds: float) -> Iterator[None]:
    """Stop the runtime; the body of the block runs at the beginning of that time."""
    os.kill(runtime.pid, signal.SIGSTOP)
    wait_until(lambda: host.state(runtime.pid) == "T", "it is stopped")
    begun = time.monotonic()
    try:
        yield
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
    finally:
        os.kill(runtime.pid, signal.SIGCONT)


class Raw:
    """A connection without any client library."""

    def __init__(self, runtime: RuntimeProcess) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.settimeout(TIMEOUT)
        self.stream.connect(runtime.url.removeprefix("unix://"))
        self.file = self.stream.makefile("rb")

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def line(self) -> bytes:
        return self.file.readline()

    def connect(self) -> Raw:
        self.send(CONNECT)
        assert self.line() == ACK
        return self

    def close(self) -> None:
        self.file.close()
        self.stream.close()


def settle(runtime: RuntimeProcess) -> None:
    """Wait until the runtime is idle: it waits for the next event."""
    runtime.snapshot()
    wait_until(lambda: host.state(runtime.pid) == "S", "it waits")


def test_a_package_that_arrives_while_the_runtime_is_stopped(
    make_runtime: Any, tmp_path: Path, payload: Path
) -> None:
    runtime = make_runtime(console='options = { npk_stream_timeout = "300ms" }')
    package = pack(tmp_path, manifest("app"), {"payload": payload}).read_bytes()
    half = len(package) // 2
    # As much as the socket buffer holds.
    assert len(package) - half < 100_000
    for _ in range(3):
        one = Raw(runtime).connect()
        one.send(b'{"request":{"install":{"repository":"mem","size":%d}}}\n' % len(package))
        one.send(package[:half])
        settle(runtime)
        with stopped(runtime, 0.8):
            one.send(package[half:])
        assert one.line() == b'{"response":{"install":{"ok":{"container":"app:1.0.0"}}}}\n'
        with runtime.client() as client:
            client.uninstall("app:1.0.0")
        one.close()
    assert "no byte of the package" not in runtime.text()
    # Later silence still leads to the timeout.
    one = Raw(runtime).connect()
    one.send(b'{"request":{"install":{"repository":"mem","size":10}}}\nxx')
    assert one.line() == b""
    one.close()
    runtime.wait_log("no byte of the package received for 0.3 s")


def test_everything_that_waits_for_the_runtime(runtime: RuntimeProcess, payload: Path) -> None:
    """All cases at once, since the connect timeout is long."""
    app = install(runtime, payload, "app", args="exit 3")
    assert CONNECT_TIMEOUT > CLOSE_TIMEOUT
    patient = 3 * CONNECT_TIMEOUT + TIMEOUT
    with runtime.client(subscribe=True, timeout=patient) as client:
        client.start(app)
        assert exit_of(client, app) == Exited(3)
        late, silent, busy = Raw(runtime), Raw(runtime), Raw(runtime).connect()
        settle(runtime)
        with stopped(runtime, CONNECT_TIMEOUT + 1.0):
            late.send(CONNECT + b'{"request":"ident"}\n')
            start = {"container": app, "arguments": [], "environment": {}}
            busy.send(f'{{"request":{{"start":{start}}}}}\n'.replace("'", '"').encode())
        assert late.line() == ACK
        assert late.line() == b'{"response":{"ident":"extern:0.0.0"}}\n'
        assert busy.line() == b'{"response":{"start":{"ok":{"container":"app:1.0.0"}}}}\n'
        assert exit_of(client, app) == Exited(3)
        # The connection of a silent client is closed, later than without the stop.
        assert silent.line() == b""
        for one in (late, silent, busy):
            one.close()
    assert len(re.findall("no connect within", runtime.text())) == 1
    assert "Traceback" not in runtime.text()


def test_containers_that_end_while_it_shuts_down(make_runtime: Any, payload: Path) -> None:
    """They ended in time: none is killed, and each exit is reported."""
    runtime = make_runtime(top='shutdown_timeout = "1s"')
    app = install(runtime, payload, "app", args="ignore TERM ; ready ; sleep 2 ; exit 4")
    with runtime.client() as client:
        client.start(app)
    wait_ready(runtime, app)
    assert runtime.process is not None
    runtime.process.send_signal(signal.SIGTERM)
    runtime.wait_log("Killing app:1.0.0 with SIGTERM")
    with stopped(runtime, 3.0):
        pass
    runtime.wait_exit()
    text = runtime.text()
    assert "with SIGKILL" not in text
    assert re.search(r"Process app:1.0.0 exited after .* with status Exit\(4\)", text)
