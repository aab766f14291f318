"""Processes that are executed in containers of a runtime: the client of exec_runtime.py."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Self

from tests.system import host
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until

_PROGRAM = str(Path(__file__).with_name("exec_runtime.py"))
_ROOT = str(Path(__file__).parents[2])


def runtime_with_exec(directory: Path, **options: Any) -> RuntimeProcess:
    """Return a runtime, not started yet, in whose containers `Exec` executes processes."""
    path = str(directory / "exec")
    environment = {"PYTHONPATH": _ROOT, **options.pop("environment", {})}
    wrap = (sys.executable, _PROGRAM, path)
    return RuntimeProcess(directory, wrap=wrap, environment=environment, **options)


class RefusedError(Exception):
    """The runtime's sentence."""


class Exec:
    """One process: from the request to its end."""

    def __init__(
        self,
        runtime: RuntimeProcess,
        container: str,
        *command: str,
        wait: bool = True,
        **options: Any,
    ) -> None:
        """Execute `command`; options: environment, stdin, terminal (rows, columns), merge.

        Args:
            runtime: of `runtime_with_exec`.
            container: the container, with its version.
            command: argv.
            wait: until it is executed.
            options: of the request.

        Raises:
            RefusedError: it was not executed.
        """
        path = runtime.directory / "exec"
        wait_until(path.exists, "the socket of exec_runtime.py")
        self.stdout = b""
        self.stderr = b""
        self.status: dict[str, int] | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self.send(container=container, command=command, **options)
        if wait:
            self.wait_started()

    def send(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def wait_started(self) -> None:
        message = self._receive()
        if "error" in message:
            self.close()
            raise RefusedError(message["error"])
        assert message == {"started": True}

    def write(self, data: bytes) -> None:
        self.send(stdin=base64.b64encode(data).decode())

    def read_until(self, text: bytes) -> bytes:
        """Receive until stdout contains `text`; return all of it so far."""
        while text not in self.stdout:
            assert self._next(), f"it ended before {text!r}: {self.stdout!r}"
        return self.stdout

    def wait(self) -> int:
        """Wait for its end; return its exit code, or 128 and the signal that killed it."""
        while self._next():
            pass
        assert self.status is not None
        self.close()
        (kind, value), *_ = self.status.items()
        return value if kind == "code" else 128 + value

    def lines(self) -> list[dict[str, Any]]:
        """Wait for its end; return the lines of a `/payload` process (tests/system/payload.c)."""
        self.wait()
        return [json.loads(line) for line in self.stdout.decode().splitlines()]

    def _next(self) -> bool:
        message = self._receive()
        for name in ("stdout", "stderr"):
            if name in message:
                setattr(self, name, getattr(self, name) + base64.b64decode(message[name]))
                return True
        self.status = message
        return False

    def _receive(self) -> dict[str, Any]:
        line = self._file.readline()
        assert line, "the runtime has closed the connection"
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close the connection: the process is ended."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def descriptors(pid: int) -> list[str]:
    """Return what the descriptors of a process refer to."""
    directory = f"/proc/{pid}/fd"
    return sorted(os.readlink(f"{directory}/{name}") for name in os.listdir(directory))


def launchers(runtime: RuntimeProcess) -> list[int]:
    """Return the launchers of the exec'ed processes, and helpers of them."""
    return [pid for pid in host.descendants(runtime.pid) if _name(pid) == "northstar-exec"]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
