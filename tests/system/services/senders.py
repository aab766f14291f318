"""Containers that send to their notify socket, and what the runtime has received."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from northstar.client import blocking
from northstar.model import ExitStatus
from tests.system import host
from tests.system.containers import (
    exit_of,
    pid_of,
    raw,
)
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until

NOTIFY: Mapping[str, Any] = {"notify": "/run/notify"}

HOSTED: Mapping[str, Any] = {
    "/usr": {"type": "bind", "host": "/usr"},
    "/lib": {"type": "bind", "host": "/lib"},
    "/lib64": {"type": "bind", "host": "/lib64"},
}
"""Mounts for programs of the host. /bin is not needed: /usr/bin has the same programs."""


def notified(runtime: RuntimeProcess, container: str = "app:1.0.0", *, since: int = 0) -> list[str]:
    """Return the messages that the runtime has received from a container, in order."""
    pattern = rf"DEBUG runtime: {re.escape(container)} notifies: (.*)$"
    return re.findall(pattern, runtime.text()[since:], re.MULTILINE)


def install_script(
    runtime: RuntimeProcess,
    script: str,
    *arguments: str,
    name: str = "app",
    files: Mapping[str, Path] | None = None,
    **fields: Any,
) -> str:
    """Install a container that runs a program of the host with `script` as its file /script."""
    init, *before = arguments
    fields = {
        "init": init,
        "args": [*before, "/script"],
        "mounts": dict(HOSTED),
        "io": {"stdout": "pipe", "stderr": "pipe"},
        "service": dict(NOTIFY),
        **fields,
    }
    package = pack(runtime.directory, manifest(name, **fields), {"script": script, **(files or {})})
    with runtime.client() as client:
        return str(client.install(package, "mem"))


def run_once(runtime: RuntimeProcess, container: str) -> ExitStatus:
    """Start a container, and return its exit status."""
    with runtime.client(subscribe=True) as client:
        client.start(container)
        return exit_of(client, container)


SHELL = "/usr/bin/sh"
PYTHON = ("/usr/bin/python3", "-I")


def status(runtime: RuntimeProcess, container: str = "app:1.0.0") -> dict[str, Any]:
    """Return the status of a container."""
    with raw(runtime) as stream, stream.makefile("rwb") as lines:
        connect = {"version": "0.9.2", "subscribe_notifications": False, "extended": True}
        for message in ({"connect": connect}, {"request": {"status": {"containers": [container]}}}):
            lines.write(json.dumps(message).encode() + b"\n")
            lines.flush()
            answer = json.loads(lines.readline())
    (result,) = answer["response"]["status"]
    found: dict[str, Any] = result["ok"]["status"]
    return found


def payload_pid(client: blocking.Client, container: str) -> int:
    """Return the pid of a container's payload on the host."""
    (pid,) = host.descendants(pid_of(client, container))
    return pid


@contextlib.contextmanager
def stopped(runtime: RuntimeProcess) -> Iterator[None]:
    """Stop the runtime's process meanwhile."""
    os.kill(runtime.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: host.state(runtime.pid) == "T", "the runtime is stopped")
        yield
    finally:
        os.kill(runtime.pid, signal.SIGCONT)
