"""Messages of containers: real senders, what arrives, and what the runtime makes of it."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from northstar.model import Exited
from tests.system.containers import (
    install,
    run,
    wait_ready,
)
from tests.system.harness import PATIENCE, RuntimeProcess, wait_until
from tests.system.services.senders import (
    NOTIFY,
    PYTHON,
    SHELL,
    install_script,
    notified,
    payload_pid,
    run_once,
    status,
    stopped,
)

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

SERVE = """
import os, signal, socket, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print('{"do": "ready"}', flush=True)
"""

READY: Mapping[str, Any] = {**NOTIFY, "ready": {"probe": "notify", "timeout": "10m"}}


# ---- Senders


def test_libsystemd(runtime: RuntimeProcess) -> None:
    """sd_notify(3) itself, and the other functions of sd-daemon.h that concern a service."""
    script = """
import ctypes, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # WATCHDOG=trigger makes the runtime stop it
lib = ctypes.CDLL("libsystemd.so.0")
for message in (b"READY=1\\nSTATUS=up", b"WATCHDOG=1", b"WATCHDOG=trigger",
                b"EXTEND_TIMEOUT_USEC=5000000", b"STOPPING=1"):
    assert lib.sd_notify(0, message) > 0
reader, writer = os.pipe()
fds = (ctypes.c_int * 1)(writer)
assert lib.sd_pid_notify_with_fds(0, 0, b"FDSTORE=1\\nSTATUS=fd", fds, 1) > 0
lib.sd_notify_barrier.argtypes = [ctypes.c_int, ctypes.c_uint64]
assert lib.sd_notify_barrier(0, 10_000_000) >= 0, "the barrier's descriptor was not closed"
interval = ctypes.c_uint64()
assert lib.sd_watchdog_enabled(0, ctypes.byref(interval)) > 0
assert interval.value == 600_000_000, interval.value
if os.fork() == 0:
    assert lib.sd_watchdog_enabled(0, ctypes.byref(interval)) > 0
    assert lib.sd_notify(0, b"STATUS=child") > 0
    os._exit(0)
assert os.wait()[1] == 0
"""
    service = {**NOTIFY, "watchdog": "10m", "stop": {"timeout": "10m"}}
    app = install_script(runtime, script, *PYTHON, service=service)
    assert run_once(runtime, app) == Exited(0), runtime.text()
    assert notified(runtime) == [
        *("READY=1 STATUS=up", "WATCHDOG=1", "WATCHDOG=trigger", "EXTEND_TIMEOUT_USEC=5000000"),
        *("STOPPING=1", "STATUS=fd", "STATUS=child"),
    ]


def test_the_python_package_sdnotify(runtime: RuntimeProcess) -> None:
    spec = importlib.util.find_spec("sdnotify")
    assert spec is not None
    assert spec.origin is not None
    script = """
import sys; sys.path.append("/")
import sdnotify
notifier = sdnotify.SystemdNotifier(debug=True)
notifier.notify("READY=1")
notifier.notify("STATUS=one\\nWATCHDOG=1")
"""
    files = {"sdnotify/__init__.py": Path(spec.origin)}
    app = install_script(runtime, script, *PYTHON, files=files)
    assert run_once(runtime, app) == Exited(0), runtime.text()
    assert notified(runtime) == ["READY=1", "WATCHDOG=1 STATUS=one"]


@pytest.mark.timeout(60 + 120 * PATIENCE)
@pytest.mark.parametrize("times", [200, pytest.param(1000, marks=pytest.mark.long)])
def test_senders_that_end_at_once(runtime: RuntimeProcess, times: int) -> None:
    """Each is a process of its own, gone before its message is read; the rate makes them wait."""
    script = f"""
n=0
while [ $n -lt {times} ]; do
    systemd-notify --no-block --status=$n || exit 1
    n=$((n + 1))
done
systemd-notify --no-block --ready
"""
    app = install_script(runtime, script, SHELL, env={"PATH": "/usr/bin"})
    with runtime.client(subscribe=True) as client:
        client.start(app)
        assert client.wait(app, timeout=120 * PATIENCE) == Exited(0)
    assert notified(runtime) == [*(f"STATUS={n}" for n in range(times)), "READY=1"]


# ---- What arrives


def test_a_message_just_before_the_exit_arrives(runtime: RuntimeProcess, payload: Path) -> None:
    """The runtime reads the queue after the end of the container and before it decides."""
    app = install(runtime, payload, service=NOTIFY)
    for number in range(20):
        since = len(runtime.text())
        said = run(runtime, app, f"notify-open - ; notify STATUS={number} READY=1 ; exit 0")
        assert said.of("notify", f"STATUS={number}")["result"] > 0
        assert notified(runtime, since=since) == [f"READY=1 STATUS={number}"]


def test_messages_of_each_size(runtime: RuntimeProcess, payload: Path) -> None:
    app = install(runtime, payload, service=NOTIFY)
    sizes = (0, 8, 4095, 4096, 4097, 5000, 100_000)
    words = " ; ".join(f"notify-size STATUS={size} {size}" for size in sizes)
    said = run(runtime, app, f"notify-open - ; {words}")
    assert [said.of("notify-size", str(size))["result"] for size in sizes] == [*sizes]
    assert notified(runtime) == ["STATUS=8", "STATUS=4095", "STATUS=4096"]
    warnings = re.findall(r"WARN .*notify messages", runtime.text())
    assert warnings == ["WARN  runtime: app:1.0.0: ignoring notify messages"]


def test_rubbish(runtime: RuntimeProcess, payload: Path) -> None:
    app = install(runtime, payload, service=NOTIFY)
    said = run(runtime, app, "notify-open - ; notify-rubbish 90 ; notify READY=1")
    assert said.of("notify-rubbish", "90")["result"] > 0
    assert notified(runtime)[-1] == "READY=1"
    assert not re.search(r"Traceback|ERROR", runtime.text())


def test_the_status_is_escaped(runtime: RuntimeProcess) -> None:
    script = """
import os, socket
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
sock.send(b"STATUS=\\x1b[2J\\xff" + "\\u202e\\u00e9".encode())
"""
    app = install_script(runtime, script, *PYTHON)
    assert run_once(runtime, app) == Exited(0)
    assert notified(runtime) == [r"STATUS=\x1b[2J\xff\u202eé"]


def test_the_environment_overrides_a_request(runtime: RuntimeProcess, payload: Path) -> None:
    app = install(runtime, payload, service={**NOTIFY, "watchdog": "2s"})
    said = run(runtime, app, "self", environment={"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1"})
    environment = dict(word.split("=", 1) for word in said.of("self")["env"])
    assert environment["NOTIFY_SOCKET"] == "/run/notify/socket"
    assert environment["WATCHDOG_USEC"] == "2000000"
    assert "WATCHDOG_PID" not in environment


# ---- What follows from a message


def test_readiness_and_status(runtime: RuntimeProcess) -> None:
    script = f"""{SERVE}
sock.send(b"STATUS=loading")
signal.sigwait({{signal.SIGUSR1}})
sock.send(b"READY=1\\nSTATUS=serving")
signal.sigwait({{signal.SIGUSR1}})
sock.send(b"STATUS=")
signal.pause()
"""
    app = install_script(runtime, script, *PYTHON, service=dict(READY))
    with runtime.client() as client:
        client.start(app)
        wait_until(lambda: status(runtime)["text"] == "loading", "its first status")
        assert status(runtime)["state"] == "running"
        client.kill(app, signal.SIGUSR1)
        wait_until(lambda: status(runtime)["state"] == "ready", "it is ready")
        assert status(runtime)["text"] == "serving"
        client.kill(app, signal.SIGUSR1)
        wait_until(lambda: status(runtime)["text"] is None, "the status is removed")


def test_readiness_after_the_timeout_comes_too_late(runtime: RuntimeProcess, payload: Path) -> None:
    """Nor does exit code 0 make the run a success."""
    words = "ignore TERM ; block USR1 ; notify-open - ; await USR1 ; notify READY=1 ; exit 0"
    service = {**NOTIFY, "ready": {"probe": "notify", "timeout": "200ms"}}
    app = install(runtime, payload, args=words, service=service)
    with runtime.client() as client:
        client.start(app)
        runtime.wait_log("State of app:1.0.0: stopping .not ready within 200ms")
        client.kill(app, signal.SIGUSR1)
        runtime.wait_log("State of app:1.0.0: failed .not ready within 200ms")
        assert status(runtime)["last"] == {"exit": {"code": 0}}
    assert notified(runtime) == ["READY=1"]
    assert "State of app:1.0.0: ready" not in runtime.text()


def test_readiness_that_a_stopped_runtime_reads_late_counts(
    runtime: RuntimeProcess, payload: Path
) -> None:
    """The message was sent within the timeout, and is read after it."""
    timeout = 3 * PATIENCE
    service = {**NOTIFY, "ready": {"probe": "notify", "timeout": f"{timeout:g}s"}}
    words = "notify-open - ; block USR1 ; ready ; await USR1 ; notify READY=1 ; pause"
    app = install(runtime, payload, args=words, service=service)
    with runtime.client() as client:
        client.start(app)
        begun = time.monotonic()
        wait_ready(runtime, app)
        process = payload_pid(client, app)
        with stopped(runtime):
            os.kill(process, signal.SIGUSR1)
            wait_until(lambda: time.monotonic() - begun > 1.1 * timeout, "the timeout has passed")
        runtime.wait_log(f"{app} notifies: READY=1")
        assert status(runtime)["state"] == "ready"


def test_a_stopped_runtime_ends_no_container_that_sent_its_pings(
    runtime: RuntimeProcess, payload: Path
) -> None:
    watchdog = 1 * PATIENCE
    service = {**NOTIFY, "watchdog": f"{watchdog:g}s"}
    words = "notify-open - ; ready ; notify-every 0.05 WATCHDOG=1"
    app = install(runtime, payload, args=words, service=service)
    with runtime.client() as client:
        client.start(app)
        wait_ready(runtime, app)
        for _ in range(2):
            with stopped(runtime):
                time.sleep(2 * watchdog)
            since = len(runtime.text())
            runtime.wait_log(f"{app} notifies: WATCHDOG=1", since=since)
        now = status(runtime)
        assert (now["state"], now["run"]) == ("ready", 1)
        assert "unhealthy" not in runtime.text()


def test_a_container_that_sends_no_pings_is_stopped(runtime: RuntimeProcess, payload: Path) -> None:
    service = {**NOTIFY, "watchdog": "300ms"}
    app = install(runtime, payload, args="pause", service=service)
    with runtime.client() as client:
        client.start(app)
        runtime.wait_log("State of app:1.0.0: failed .watchdog")


def test_readiness_of_a_process_that_ends_at_once(runtime: RuntimeProcess, payload: Path) -> None:
    """It was ready, although its end and its message are noticed together."""
    words = "notify-open - ; notify READY=1 ; exit 0"
    app = install(runtime, payload, args=words, service=dict(READY))
    for _ in range(10):
        since = len(runtime.text())
        run(runtime, app, words)
        runtime.wait_log("State of app:1.0.0: installed", since=since)
        states = re.findall(r"State of app:1\.0\.0: (\w+)", runtime.text()[since:])
        assert states == ["starting", "running", "ready", "installed"]
