"""Runtimes by fork: the import of one takes 0.2 s, in the virtual machine 6 s.

The zygote is a process that has imported the runtime and waits. For each request it forks a
process that enters new namespaces and calls the runtime's `main`, as the program `northstar` does.
The process is forked twice, so it becomes a child of the test (a child subreaper).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the process, which runs with -I

from tests.system import enter

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_SLAVE = 0x4000, 0x80000


class Forked:
    """A runtime forked by the zygote; used like a subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal), None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("northstar", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if the runtime still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The zygote as seen by the test; it ends with the test process."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            command = [sys.executable, "-I", __file__, str(other.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL
            )
        assert self._socket.recv(16) == b"ready"

    @property
    def pid(self) -> int:
        """The pid of the zygote."""
        return self._process.pid

    def spawn(
        self,
        arguments: list[str],
        cwd: Path,
        environment: Mapping[str, str],
        log: BinaryIO,
        *,
        older: bool,
    ) -> Forked:
        """Fork a runtime with these arguments of its command line."""
        request = {
            "arguments": arguments,
            "cwd": str(cwd),
            "environment": dict(environment),
            "older": older,
        }
        socket.send_fds(self._socket, [json.dumps(request).encode()], [log.fileno()])
        return Forked(int(self._socket.recv(16)))


def _serve(connection: socket.socket) -> None:
    # Imported before the first fork: this saves the time.
    import northstar.runtime.main  # noqa: F401
    from northstar.cli.northstar import main

    connection.send(b"ready")
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, 65536, 1)
        if not data:
            return  # the test process has ended
        read, write = os.pipe()
        first = os.fork()
        if first == 0:
            if pid := os.fork():
                os.write(write, str(pid).encode())
                os._exit(0)
            request = json.loads(data)
            _enter_namespaces(request["cwd"], request["environment"], *descriptors)
            if request["older"]:
                enter.older_kernel()
            sys.argv = ["northstar", *request["arguments"]]
            main()
            sys.exit()
        os.close(*descriptors)
        os.waitpid(first, 0)
        # From now on the runtime is a child of the test.
        connection.send(os.read(read, 16))
        os.close(read)
        os.close(write)


def _enter_namespaces(cwd: str, environment: dict[str, str], log: int) -> None:
    """Set the state that `unshare`, enter.py and a new interpreter would have set."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) or libc.mount(
        None, b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None
    ):
        raise OSError(ctypes.get_errno(), "unshare")
    enter.loopback_up()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
