"""The start and the shutdown of the runtime: autostart, early clients, stale state."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import notification
from northstar.model import Container, Exited, NorthstarError, Signalled
from tests.system import host
from tests.system.containers import PIPES, exit_of, install, raw, split, until_closed
from tests.system.harness import PATIENCE, RuntimeProcess, enter, manifest, pack, wait_until

pytestmark = pytest.mark.root

EXECUTED_RUNTIME = True

C = Container.parse


@pytest.fixture
def stored(tmp_path: Path, payload: Path) -> Callable[..., str]:
    """Put a container with these commands into the directory of the repository `fs`."""
    directory = tmp_path / "store"
    directory.mkdir()

    def put(name: str, words: str = "pause", **fields: Any) -> str:
        fields = {"args": split(words), "io": PIPES, **fields}
        if "init" in fields:
            fields = {
                "init": fields["init"],
                **({"mounts": m} if (m := fields.get("mounts")) else {}),
            }
            if fields["init"] is not None:
                fields["args"] = split(words)
        text = manifest(name, **fields)
        shutil.copy(pack(tmp_path, text, {"payload": payload}), directory)
        return f"{name}:1.0.0"

    return put


@pytest.fixture
def make(make_runtime: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Make a runtime with the repository `fs`, optionally with more lines for its table."""

    def fs(lines: str = "", **options: Any) -> RuntimeProcess:
        table = f'type = {{ fs = {{ dir = "{tmp_path / "store"}" }} }}\n{lines}'
        runtime: RuntimeProcess = make_runtime(repositories={"fs": table}, **options)
        return runtime

    return fs


# ---- The start


@pytest.mark.vm
def test_mount_on_start_and_autostart(make: Any, stored: Any) -> None:
    mounts = {"/r": {"type": "resource", "name": "res", "version": "1", "dir": "/"}}
    running = [
        stored("critical", autostart="critical", mounts=mounts),
        stored("relaxed", autostart="relaxed"),
    ]
    stored("res", init=None)
    idle = stored("idle")
    for lines in ("", "mount_on_start = true"):
        runtime = make(lines)
        with runtime.client() as client:
            found = {str(c): client.inspect(c) for c in client.list()}
            assert {c for c, data in found.items() if data.process} == set(running)
            mounted = {c for c, data in found.items() if data.mounted}
            assert mounted == {*running, "res:1.0.0", *([idle] if lines else [])}
        # All of it happened before the first client was accepted.
        text = runtime.text()
        up = text.rindex("Runtime up and running")
        assert text.rindex("Started critical:1.0.0 (") < up
        runtime.stop()


@pytest.mark.vm
def test_relaxed_failures_are_warnings(make: Any, stored: Any) -> None:
    nothing = {"/r": {"type": "resource", "name": "none", "version": "1", "dir": "/"}}
    stored("relaxed", autostart="relaxed", mounts=nothing)
    stored("broken", autostart="relaxed", init="/nothing")
    good = stored("good", autostart="relaxed")
    runtime = make()
    runtime.wait_log(r"WARN\w* .*relaxed:1\.0\.0.*")
    with runtime.client(subscribe=True) as client:
        assert client.inspect(good).process is not None
        client.kill(good, 9)
        exit_of(client, good)
        assert client.list()
    runtime.stop()


@pytest.mark.vm
def test_a_critical_container_that_does_not_start_ends_the_runtime(make: Any, stored: Any) -> None:
    nothing = {"/r": {"type": "resource", "name": "none", "version": "1", "dir": "/"}}
    stored("critical", autostart="critical", mounts=nothing)
    stored("other", autostart="relaxed")
    runtime = make(start=False)
    runtime.start(wait=False)
    runtime.wait_exit(code=1)
    text = runtime.text()
    assert "up and running" not in text
    assert re.search(r"^error: .*critical:1\.0\.0", text, re.MULTILINE), text
    assert "Traceback" not in text
    # A container that had started was stopped in order.
    assert ("Started other:1.0.0" in text) == ("Container other:1.0.0 exited" in text)


@pytest.mark.vm
def test_a_critical_container_that_is_killed_ends_the_runtime(make: Any, stored: Any) -> None:
    critical = stored("critical", autostart="critical")
    other = stored("other", autostart="relaxed")
    runtime = make()
    with runtime.client(subscribe=True, extended=False) as events, runtime.client() as client:
        client.kill(critical, signal.SIGSEGV)
        seen = list(until_closed(events))
    # Then the runtime shuts down in order.
    assert seen == [
        notification.Exit(C(critical), Signalled(11)),
        notification.Shutdown(),
        notification.Exit(C(other), Signalled(15)),
    ]
    runtime.wait_exit(code=1)
    text = runtime.text()
    status = r"exited after \S+ with status Signalled\(SIGSEGV\)$"
    assert re.search(rf"ERROR .*Critical process {critical} {status}", text, re.MULTILINE)
    assert re.search(rf"INFO .*Process {other} exited after", text)
    assert re.search(rf"^error: .*{critical}", text, re.MULTILINE)
    assert "Shutdown complete" not in text


def test_a_critical_container_that_fails_ends_the_runtime(make: Any, stored: Any) -> None:
    # It exits at once, perhaps before the boot is complete.
    critical = stored("critical", "exit 3", autostart="critical")
    runtime = make(start=False)
    runtime.start(wait=False)
    runtime.wait_exit(code=1)
    text = runtime.text()
    pattern = rf"ERROR .*Critical process {critical} exited after \S+ with status Exit\(3\)$"
    assert re.search(pattern, text, re.MULTILINE)
    assert re.search(rf"^error: .*{critical}.*\n", text, re.MULTILINE)
    assert "Traceback" not in text


def test_a_critical_container_may_exit_with_0(make: Any, stored: Any) -> None:
    critical = stored("critical", "exit 0", autostart="critical")
    runtime = make()
    runtime.wait_log(rf"Container {critical} exited with status Exit\(0\)$")
    with runtime.client(subscribe=True) as client:
        # Also after the boot and on request; and at the shutdown no exit is an error.
        client.start(critical)
        assert exit_of(client, critical) == Exited(0)
        client.start(critical, arguments=("pause",))
    runtime.stop()
    assert "Critical process critical:1.0.0 exited after" in runtime.text()
    assert "Process critical:1.0.0 exited after" in runtime.text()


@pytest.mark.vm
def test_an_early_client_waits_for_the_boot(make: Any, stored: Any, tmp_path: Path) -> None:
    stored("app", autostart="relaxed")
    runtime = make(start=False)
    runtime.start(wait=False)
    wait_until((tmp_path / "console").exists, "the console listens")
    answers: list[bytes] = []
    with raw(runtime) as stream:
        connect = {"connect": {"version": "0.9.2", "subscribe_notifications": True}}
        stream.sendall(f'{json.dumps(connect)}\n{{"request":"list"}}\n'.encode())
        with stream.makefile("rb") as file:
            while b'"response"' not in (line := file.readline()):
                answers.append(line)
                assert line
        assert line == b'{"response":{"list":["app:1.0.0"]}}\n'
    assert b'{"connect_ack":null}\n' in answers
    runtime.wait_log("Runtime up and running")


# ---- The shutdown


@pytest.mark.vm
def test_a_shutdown_takes_less_than_five_seconds(make: Any, stored: Any) -> None:
    for number in range(8):
        words = (
            "ignore TERM HUP INT ; session ; fork ; ignore TERM ; flood 0"
            if number < 3
            else "pause"
        )
        stored(f"app{number}", words, autostart="relaxed")
    runtime = make()
    begun = time.monotonic()
    runtime.stop()
    assert time.monotonic() - begun < 5 * PATIENCE
    text = runtime.text()
    order = ["Killing app7:1.0.0 with SIGTERM", "Killing app0:1.0.0 with SIGKILL"]
    order += ["Container app0:1.0.0 exited", "Umounted app0:1.0.0", "Shutdown complete"]
    places = [text.index(line) for line in order]
    assert places == sorted(places)
    assert "Killing app7:1.0.0 with SIGKILL" not in text


def test_the_shutdown_timeout_is_configured(make: Any, stored: Any) -> None:
    stored("app", "ignore TERM ; ready ; pause", autostart="relaxed")
    runtime = make(top='shutdown_timeout = "100ms"')
    runtime.wait_log('"do": "ready"')
    begun = time.monotonic()
    runtime.stop()
    assert time.monotonic() - begun < 1.5 * PATIENCE
    assert "with SIGKILL" in runtime.text()


def test_clients_cannot_delay_the_shutdown(make: Any, stored: Any) -> None:
    stored("app", "ignore TERM ; pause", autostart="relaxed")
    for number in range(4):
        stored(f"other{number}")
    runtime = make()
    stop = threading.Event()

    def request_again(number: int) -> None:
        requests = ("mount", "umount", "start", "kill")
        try:
            with runtime.client() as client:
                while not stop.is_set():
                    for request in requests:
                        try:
                            getattr(client, request)(f"other{number}:1.0.0")
                        except api.RefusedError:
                            continue
        except (NorthstarError, OSError):
            return  # the connection has ended

    threads = [threading.Thread(target=request_again, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        begun = time.monotonic()
        runtime.stop(timeout=8 * PATIENCE)
        assert time.monotonic() - begun < 5 * PATIENCE
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert "Traceback" not in runtime.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_boot_leaves_nothing(make: Any, stored: Any, number: int) -> None:
    for name in range(12):
        stored(f"app{name}", autostart="relaxed")
    runtime = make("mount_on_start = true", start=False)
    for what in ("Listening on", "Mounted app", "Started app"):
        since = len(runtime.text()) if runtime.log.exists() else 0
        runtime.start(wait=False)
        runtime.wait_log(what, since=since)
        os.kill(runtime.pid, number)
        runtime.wait_exit()
    assert "Traceback" not in runtime.text()
    assert runtime.text().count("Shutdown complete") == 3


# ---- Stale state


def test_mounts_of_a_killed_run_are_removed(make_runtime: Any, payload: Path) -> None:
    """With -d all runs share one mount namespace, so the mounts of a killed run stay."""
    runtime = make_runtime(start=False, arguments=("-d",))
    holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "600"])
    try:
        # Before it has called unshare(2), it is in the namespace of the host.
        wait_until(
            lambda: _namespace(holder.pid) != _namespace(os.getpid()), "it has a new namespace"
        )
        before = host.mounts(holder.pid)
        process = in_namespace(runtime, holder.pid)
        container = install(runtime, payload, args="pause")
        with runtime.client() as client:
            client.start(container)
        process.kill()
        process.wait()
        left = [line for line in host.mounts(holder.pid) if line not in before]
        assert [line.split(" ")[0] for line in left] == [str(runtime.run_dir / container)]
        process = in_namespace(runtime, holder.pid)
        assert host.mounts(holder.pid) == before
        assert os.listdir(runtime.run_dir) == []
        container = install(runtime, payload, args="pause")
        with runtime.client() as client:
            client.start(container)
        process.terminate()
        assert process.wait(20 * PATIENCE) == 0
        assert host.mounts(holder.pid) == before
    finally:
        holder.kill()
        holder.wait()
    assert host.cgroups(runtime.cgroup) == []


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")


def in_namespace(runtime: RuntimeProcess, pid: int) -> subprocess.Popen[bytes]:
    """Start `northstar -d` in the mount namespace of a process, and wait until it is up."""
    program = "import sys; from northstar.cli.northstar import main; sys.exit(main())"
    northstar = [sys.executable, "-c", program, "-d", "-c", str(runtime.configuration)]
    since = len(runtime.text()) if runtime.log.exists() else 0
    with runtime.log.open("ab") as log:
        process = subprocess.Popen(
            enter(pid, *northstar),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    runtime.wait_log("Runtime up and running", since=since)
    return process


@pytest.mark.vm
def test_the_cgroups_of_a_killed_run_are_adopted(make_runtime: Any, payload: Path) -> None:
    runtime = make_runtime()
    container = install(runtime, payload, args="pause")
    with runtime.client() as client:
        client.start(container)
    groups = host.cgroups(runtime.cgroup)
    assert any(path.endswith("/app") for path in groups)
    runtime.kill()
    # A process still runs in one of them, as after a container that was killed.
    stale = next(path for path in groups if path.endswith("/app"))
    os.makedirs(stale, exist_ok=True)
    stale_process = subprocess.Popen(["sleep", "600"])
    try:
        Path(stale, "cgroup.procs").write_text(str(stale_process.pid))
        runtime.start()
        container = install(runtime, payload, args="pause")
        with runtime.client(subscribe=True) as client:
            client.start(container)
            client.kill(container, 9)
            exit_of(client, container)
        runtime.stop()
    finally:
        stale_process.kill()
        stale_process.wait()
