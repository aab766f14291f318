"""Notifications to the service manager, over a real datagram socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

import pytest

from northstar.runtime.systemd import Manager


class Listener:
    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(10)

    def receive(self) -> bytes:
        return self.socket.recv(100)


def test_ready_and_stopping(tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "notify"))
    manager = Manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    manager.ready()
    assert listener.receive() == b"READY=1"
    manager.stopping()
    assert listener.receive() == b"STOPPING=1"
    manager.close()
    listener.socket.close()


def test_abstract_socket() -> None:
    name = f"northstar-test-{os.getpid()}"
    listener = Listener(f"\0{name}")
    Manager({"NOTIFY_SOCKET": f"@{name}"}).ready()
    assert listener.receive() == b"READY=1"
    listener.socket.close()


def test_watchdog(tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "notify"))
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "20000",
        "WATCHDOG_PID": str(os.getpid()),
    }

    async def test() -> None:
        manager = Manager(environment)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        manager.ready()
        assert listener.receive() == b"READY=1"
        for _ in range(4):
            assert await loop.run_in_executor(None, listener.receive) == b"WATCHDOG=1"
        # Twice per interval of the watchdog.
        assert 0.025 < loop.time() - begun < 5
        manager.close()

    asyncio.run(test())
    listener.socket.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"WATCHDOG_USEC": "1000"},
    ],
)
def test_without_a_service_manager(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(environment)
    manager.ready()
    manager.stopping()
    assert caplog.records == []


def test_a_watchdog_of_another_process(tmp_path: Path) -> None:
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "gone"),
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": str(os.getpid() + 1),
    }
    # A watchdog timer would need an event loop, and none is running.
    Manager(environment).ready()


@pytest.mark.parametrize(
    "environment",
    [
        {"NOTIFY_SOCKET": "vsock:1:2"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere"},
    ],
)
def test_failures_are_warnings(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    Manager(environment).ready()
    assert caplog.records
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
