"""A plain client for both sides, and the requests.

The client libraries are not involved: the client writes a line of JSON, and reads lines of JSON.
"""

from __future__ import annotations

import json
import socket
import statistics
from pathlib import Path
from typing import Any, Self

from tests.system.harness import PATIENCE

TIMEOUT = 40.0 * PATIENCE
"""Seconds for an answer; then the measurement fails."""


class Console:
    """A connection."""

    def __init__(self, path: Path, *, subscribe: bool) -> None:
        """Connect.

        Raises:
            FileNotFoundError: the socket is not bound yet.
            ConnectionRefusedError: the runtime does not listen yet.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(TIMEOUT)
            self._socket.connect(str(path))
            self._lines = self._socket.makefile("rb")
            hello = {"version": "0.9.2", "subscribe_notifications": subscribe}
            self._send({"connect": hello})
            assert b"connect_ack" in self._read()
        except BaseException:
            self._socket.close()
            raise
        self.notifications: list[Any] = []
        """Messages that arrived before the awaited one."""
        self._exited: list[str] = []

    def _send(self, message: object, data: bytes = b"") -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n" + data)

    def _read(self) -> bytes:
        line = self._lines.readline()
        assert line, "the runtime has closed the connection"
        return line

    def send(self, request: object, data: bytes = b"") -> None:
        """Send a request, and raw data after it."""
        self._send({"request": request}, data)

    def response(self) -> bytes:
        """Return the line of the next response, which must be a success.

        The measured time ends here, so the response is not parsed.
        """
        while not (line := self._read()).startswith(b'{"response":'):
            self._note(line)
        assert b'"error":' not in line, line
        return line

    def request(self, request: object, data: bytes = b"") -> bytes:
        """Send a request and return the line of its response."""
        self.send(request, data)
        return self.response()

    def ask(self, request: object, data: bytes = b"") -> Any:
        """Send a request; return the response, also an error."""
        self.send(request, data)
        while not (line := self._read()).startswith(b'{"response":'):
            self._note(line)
        return json.loads(line)["response"]

    def wait_exit(self, container: str) -> None:
        """Wait for the exit notification of a container."""
        while container not in self._exited:
            self._note(self._read())
        self._exited.remove(container)

    def _note(self, line: bytes) -> None:
        notification = json.loads(line)["notification"]
        self.notifications.append(notification)
        if "exit" in notification:
            self._exited.append(notification["exit"][0])

    def install(self, package: bytes, repository: str) -> str:
        """Install a package; return its container."""
        request = {"install": {"repository": repository, "size": len(package)}}
        response = json.loads(self.request(request, package))["response"]
        container: str = response["install"]["ok"]["container"]
        return container

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(container: str) -> dict[str, Any]:
    """Return the request that starts a container."""
    return {"start": {"container": container, "arguments": [], "environment": {}}}


def kill(container: str) -> dict[str, Any]:
    """Return the request that kills a container."""
    return {"kill": {"container": container, "signal": 9}}


def mounts(word: str, *containers: str) -> dict[str, Any]:
    """Return the request that mounts or unmounts (`word`) containers."""
    return {word: {"containers": containers}}


def summary(values: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile (of few values the largest)."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
