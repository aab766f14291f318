"""Steps that most tests with containers share."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from northstar import api
from northstar.api import error, notification
from northstar.client import blocking
from northstar.model import Exited, ExitStatus
from tests.system.harness import TIMEOUT, RuntimeProcess, manifest, pack, wait_until

PIPES = {"stdout": "pipe", "stderr": "pipe"}
PROC = {"/proc": {"type": "proc"}}

Line = dict[str, Any]


def install(
    runtime: RuntimeProcess,
    payload: Path,
    name: str = "app",
    version: str = "1.0.0",
    *,
    root: Path | None = None,
    repository: str = "mem",
    **fields: Any,
) -> str:
    """Pack the payload as a container and install it.

    `args` may be a string of words. Without an init it is a resource, without a payload.

    Returns:
        The container's id.
    """
    if isinstance(fields.get("args"), str):
        fields["args"] = split(fields["args"])
    resource = "init" in fields and fields["init"] is None
    if not resource:
        fields = {"io": PIPES, **fields}
    package = pack(
        runtime.directory,
        manifest(name, version, **fields),
        {} if resource else {"payload": payload},
        root=root,
    )
    with runtime.client() as client:
        assert str(client.install(package, repository)) == f"{name}:{version}"
    return f"{name}:{version}"


def split(words: str) -> list[str]:
    """Return the words of commands for the payload, with each `;` as a separate word."""
    return words.replace(";", " ; ").split()


class Said(list[Line]):
    """The output of a payload: one object for each result, in order."""

    def __init__(self, lines: list[Line], status: ExitStatus) -> None:
        super().__init__(lines)
        self.status = status

    def of(self, do: str, on: str = "") -> Line:
        """Return the only result of the command `do` on `on`."""
        (line,) = [line for line in self if line["do"] == do and line.get("on", "") == on]
        return line

    def errno(self, do: str, on: str = "") -> int:
        """Return the errno of the failed command."""
        line = self.of(do, on)
        assert line["result"] < 0, f"it succeeded: {line}"
        number: int = line["errno"]
        return number

    @property
    def mounts(self) -> dict[str, tuple[str, str, set[str]]]:
        """The output of the command `mounts`: source, type and options by target."""
        rows = [line["mount"] for line in self if line["do"] == "mounts"]
        found = {target: (source, kind, set(o.split(","))) for source, target, kind, o in rows}
        assert len(found) == len(rows), f"two mounts on one target: {rows}"
        return found


def run(runtime: RuntimeProcess, container: str, words: str | list[str] = "", **start: Any) -> Said:
    """Run a container with these commands, and return its output after its exit."""
    since = len(runtime.text())
    arguments = split(words) if isinstance(words, str) else words
    with runtime.client(subscribe=True) as client:
        client.start(container, arguments=tuple(arguments), **start)
        status = exit_of(client, container)
    return Said(lines(runtime, container, since=since), status)


def run_new(
    runtime: RuntimeProcess, payload: Path, words: str, name: str = "app", **fields: Any
) -> Said:
    """Install a container with these commands in its manifest, run it once, uninstall it."""
    container = install(runtime, payload, name, args=words, **fields)
    said = run(runtime, container)
    with runtime.client() as client:
        client.uninstall(container)
    return said


def lines(runtime: RuntimeProcess, container: str, *, since: int = 0) -> list[Line]:
    """Return the results that an exited container printed, from offset `since` of the log on."""
    ended = rf"Container {re.escape(container)} exited with status"
    end = runtime.wait_log(ended, since=since)
    text = end.string[since : end.start()]
    found = re.findall(rf"DEBUG {re.escape(container)}: (\{{.*\}})$", text, re.MULTILINE)
    return [json.loads(line) for line in found]


def wait_ready(runtime: RuntimeProcess, container: str, *, since: int = 0) -> None:
    """Wait until a container has printed `ready`."""
    runtime.wait_log(rf"DEBUG {re.escape(container)}: .*\"do\": \"ready\"", since=since)


def refused(call: Callable[[], object]) -> error.Error:
    """Make a request that must be refused; return the reason."""
    with pytest.raises(api.RefusedError) as caught:
        call()
    return caught.value.error


def exit_of(events: blocking.Client, container: str) -> ExitStatus:
    """Return the status of the next exit of a container."""
    for event in events.notifications(timeout=TIMEOUT):
        if isinstance(event, notification.Exit) and str(event.container) == container:
            return event.status
    raise AssertionError(f"no exit of {container}")


def until_closed(events: blocking.Client) -> Iterator[notification.Notification]:
    """Yield the notifications until the runtime has shut down."""
    yield from events.notifications(timeout=TIMEOUT)


def pid_of(client: blocking.Client, container: str) -> int:
    """Return the pid of a started container's init."""
    process = client.inspect(container).process
    assert process is not None
    return process.pid


def raw(runtime: RuntimeProcess) -> socket.socket:
    """Return a socket that is connected to the console; nothing was sent yet."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(TIMEOUT)
    stream.connect(str(runtime.directory / "console"))
    return stream


class Watch:
    """A client that makes requests continuously, and its longest wait for an answer."""

    def __init__(self, runtime: RuntimeProcess) -> None:
        self.slowest = 0.0
        self._end = threading.Event()
        self._runtime = runtime
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self) -> None:
        with self._runtime.client() as client:
            while not self._end.wait(0.002):
                begun = time.monotonic()
                client.ident()
                self.slowest = max(self.slowest, time.monotonic() - begun)


OK = Exited(0)


def shared_runtime(factory: pytest.TempPathFactory, **options: Any) -> Iterator[RuntimeProcess]:
    """Yield one runtime for all tests of a file, for a fixture: most tests can share it."""
    runtime = RuntimeProcess(factory.mktemp("runtime"), **options)
    try:
        yield runtime.start()
        runtime.stop()
    finally:
        runtime.close()


def cleaned(runtime: RuntimeProcess) -> Iterator[RuntimeProcess]:
    """Yield a shared runtime to one test, with an empty log; a leak fails the test.

    Afterwards its containers are killed and uninstalled.
    """
    os.truncate(runtime.log, 0)
    entries = set(os.listdir(runtime.directory))
    assert os.listdir(runtime.data_dir) == os.listdir(runtime.run_dir) == []
    before = runtime.snapshot()
    yield runtime
    with runtime.client() as client:
        containers = client.list()
        for container in containers:
            with contextlib.suppress(api.RefusedError):
                client.kill(container, 9)
        wait_until(lambda: not any(client.inspect(c).process for c in containers), "all exited")
        for container in containers:
            client.uninstall(container)
    for name in set(os.listdir(runtime.directory)) - entries:
        made = runtime.directory / name
        # Mounts below it exist only in the runtime's mount namespace.
        subprocess.run(runtime.enter("umount", "-R", "-q", str(made)), check=False)
        shutil.rmtree(made)
    for data in runtime.data_dir.iterdir():
        data.unlink() if data.is_symlink() else shutil.rmtree(data)
    runtime.assert_no_leak(before)
