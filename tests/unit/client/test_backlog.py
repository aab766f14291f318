"""A Unix socket whose backlog is full: a client waits for room until its timeout."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from northstar.client import ConnectError
from tests.unit.client.peer import CLIENTS, TIMEOUT


def fill(path: str, stack: contextlib.ExitStack) -> None:
    """Connect until the backlog is full."""
    with contextlib.suppress(BlockingIOError):
        while True:
            stream = stack.enter_context(socket.socket(socket.AF_UNIX))
            stream.setblocking(False)
            stream.connect(path)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_full_backlog_until_the_timeout(kind: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "console")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(TIMEOUT)
        fill(path, stack)
        begun = time.monotonic()
        with pytest.raises(ConnectError):
            kind.connect(f"unix://{path}", timeout=0.2)
        assert 0.2 <= time.monotonic() - begun < 5.0

        def accept() -> None:
            """Accept connections, and answer the first one that sends data."""
            while True:
                with listener.accept()[0] as stream, stream.makefile("rb") as file:
                    stream.setblocking(False)
                    poll = select.poll()
                    poll.register(stream, select.POLLIN)
                    if poll.poll(200):
                        stream.setblocking(True)
                        assert b"connect" in file.readline()
                        stream.sendall(b'{"connect_ack":null}\n')
                        assert file.read() == b""
                        return

        thread = threading.Timer(0.1, accept)
        thread.start()
        try:
            with kind.connect(f"unix://{path}", timeout=TIMEOUT):
                pass
        finally:
            thread.join()
