"""The notify socket in containers: real senders, what reaches the runtime, and what it leaves."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from northstar.linux import sysctl
from northstar.model import Container, Exited, ExitStatus
from northstar.runtime import notify
from tests.system.containers import PROC, Watch, exit_of, install, refused, run, wait_ready
from tests.system.harness import PATIENCE, RuntimeProcess, manifest, pack, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True

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


# ---- Senders


def test_libsystemd(runtime: RuntimeProcess) -> None:
    """sd_notify(3) itself, and the other functions of sd-daemon.h that concern a service."""
    # The runtime stops what reports a failure by WATCHDOG=trigger.
    script = """
import ctypes, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
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
assert interval.value == 1_500_000, interval.value
if os.fork() == 0:
    assert lib.sd_watchdog_enabled(0, ctypes.byref(interval)) > 0
    assert lib.sd_notify(0, b"STATUS=child") > 0
    os._exit(0)
assert os.wait()[1] == 0
"""
    app = install_script(runtime, script, *PYTHON, service={**NOTIFY, "watchdog": "1500ms"})
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


@pytest.mark.timeout(60 + 60 * PATIENCE)
@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="no systemd-notify")
def test_a_thousand_senders_that_end_at_once(runtime: RuntimeProcess) -> None:
    """Each is a process of its own, gone before its message is read; the rate makes them wait."""
    script = """
n=0
while [ $n -lt 1000 ]; do
    systemd-notify --no-block --status=$n || exit 1
    n=$((n + 1))
done
systemd-notify --no-block --ready
"""
    app = install_script(runtime, script, SHELL, env={"PATH": "/usr/bin"})
    with runtime.client(subscribe=True) as client:
        client.start(app)
        deadline = time.monotonic() + 60 * PATIENCE
        for event in client.notifications(timeout=60 * PATIENCE):
            if type(event).__name__ == "Exit" or time.monotonic() > deadline:
                break
    assert notified(runtime) == [*(f"STATUS={n}" for n in range(1000)), "READY=1"]


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


# ---- The mount


def test_the_mount(runtime: RuntimeProcess, payload: Path) -> None:
    """A container sees this one mount more, and only with `service.notify`."""
    without, said = (
        run(runtime, install(runtime, payload, name, mounts=PROC, service=service), "mounts")
        for name, service in (("a", {}), ("b", NOTIFY))
    )
    added = {target: said.mounts[target] for target in said.mounts.keys() - without.mounts.keys()}
    assert [*added] == ["/run/notify"]
    _, _, options = added["/run/notify"]
    assert {"ro", "nosuid", "nodev", "noexec"} <= options


def test_modes_on_the_host_and_what_stays(runtime: RuntimeProcess, payload: Path) -> None:
    app = install(runtime, payload, args="ready ; pause", service=NOTIFY)
    top = runtime.run_dir / "notify"
    with runtime.client(subscribe=True) as client:
        for _ in range(3):
            since = len(runtime.text())
            client.start(app)
            wait_ready(runtime, app, since=since)
            paths = (top, top / app, top / app / "socket")
            modes = [path.lstat().st_mode for path in paths]
            assert modes == [stat.S_IFDIR | 0o700, stat.S_IFDIR | 0o755, stat.S_IFSOCK | 0o666]
            client.kill(app, 9)
            exit_of(client, app)
            wait_until(lambda: not top.exists(), "the socket is removed")


def test_a_long_run_dir(make_runtime: Any, tmp_path: Path, payload: Path) -> None:
    """The address of a Unix socket has room for 108 bytes only."""
    runtime = make_runtime(start=False)
    run_dir = tmp_path / "run"
    while len(str(run_dir)) < 3800:
        run_dir /= "d" * 200
    text = runtime.configuration.read_text()
    runtime.configuration.write_text(text.replace(f"{tmp_path}/run", str(run_dir), 1))
    runtime.run_dir = run_dir
    runtime.start()
    app = install(runtime, payload, service=NOTIFY)
    run(runtime, app, "notify-open - ; notify READY=1")
    assert notified(runtime) == ["READY=1"]
    runtime.stop()


def test_labels(tmp_path: Path) -> None:
    """The kernel stores the label also where SELinux is not enabled."""
    label = "system_u:object_r:app_t:s0"
    with notify.bind(str(tmp_path), Container.parse("app:1.0.0"), label) as bound:
        for path in (bound.directory, f"{bound.directory}/socket"):
            assert os.getxattr(path, "security.selinux") == f"{label}\0".encode()


# ---- What a start and an end leave


def test_a_failing_start_leaves_nothing(runtime: RuntimeProcess, payload: Path) -> None:
    app = install(runtime, payload, init="/missing", service=NOTIFY)
    with runtime.client() as client:
        client.mount(app)
    before = runtime.snapshot()
    with runtime.client() as client:
        assert "/missing" in str(refused(lambda: client.start(app)))
    runtime.assert_no_leak(before)
    assert not (runtime.run_dir / "notify").exists()


def test_a_directory_of_another_program_refuses_the_start(
    runtime: RuntimeProcess, payload: Path
) -> None:
    app = install(runtime, payload, service=NOTIFY)
    top = runtime.run_dir / "notify"
    top.mkdir(0o755)
    with runtime.client() as client:
        reason = str(refused(lambda: client.start(app)))
    top.rmdir()
    assert f"cannot make the notify socket: {top}: it is not a directory of the runtime" in reason


def test_files_that_another_program_removed(runtime: RuntimeProcess, payload: Path) -> None:
    """The socket is not repaired while the container runs; its next start has a new one."""
    app = install(runtime, payload, args="ready ; pause", service=NOTIFY)
    for _ in range(2):
        with runtime.client(subscribe=True) as client:
            since = len(runtime.text())
            client.start(app)
            wait_ready(runtime, app, since=since)
            assert (runtime.run_dir / "notify" / app / "socket").is_socket()
            shutil.rmtree(runtime.run_dir / "notify")
            client.kill(app, 9)
            exit_of(client, app)
    assert not re.search("Traceback|ERROR", runtime.text())


def test_a_killed_runtime_leaves_a_socket_that_the_next_removes(
    make_runtime: Any, payload: Path
) -> None:
    runtime = make_runtime()
    app = install(runtime, payload, args="ready ; pause", service=NOTIFY)
    with runtime.client() as client:
        client.start(app)
    wait_ready(runtime, app)
    runtime.kill()
    assert (runtime.run_dir / "notify" / app / "socket").is_socket()
    runtime.start()
    runtime.wait_log(r"Removed what an earlier run left: .*1 notify socket \(app:1\.0\.0\)")
    assert not (runtime.run_dir / "notify").exists()
    runtime.stop()


def test_passed_descriptors_leave_none_behind(runtime: RuntimeProcess) -> None:
    script = """
import array, os, signal, socket, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print('{"do": "ready"}', flush=True)
signal.sigwait({signal.SIGUSR1})
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 253))]
sent = 0
while sent < 90:
    try:
        sock.sendmsg([b"FDSTORE=1\\nSTATUS=%d" % sent], passed)
        sent += 1
    except OSError:  # ETOOMANYREFS: too many are in queues
        time.sleep(0.01)
sock.send(b"READY=1")
signal.pause()
"""
    app = install_script(runtime, script, *PYTHON)
    with runtime.client(subscribe=True) as client:
        client.start(app)
        wait_ready(runtime, app)
        before = runtime.snapshot().descriptors
        client.kill(app, 10)
        runtime.wait_log(f"{app} notifies: READY=1")
        assert notified(runtime) == [*(f"STATUS={n}" for n in range(90)), "READY=1"]
        assert runtime.snapshot().descriptors == before
        client.kill(app, 9)
        exit_of(client, app)


# ---- Others


def test_nobody_else_reaches_the_socket(runtime: RuntimeProcess, payload: Path) -> None:
    """Not with the host's network, and not a container with a notify socket of its own."""
    app = install(runtime, payload, args="ready ; pause", service=NOTIFY)
    script = """
import json, os, socket, sys
with open("/proc/net/unix") as file:
    names = {words[7] for words in map(str.split, file) if len(words) > 7}
names = {name for name in names if "socket" in name or "notify" in name}
assert any("/socket" in name for name in names), names
own = os.environ.get("NOTIFY_SOCKET")
paths = {sys.argv[1], "/run/notify/socket", *names} - {own}
for path in [*paths, *("\\0" + path.lstrip("@") for path in paths)]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"STATUS=spy", path)
        except OSError:
            continue
        print(json.dumps({"do": "reached", "on": path}), flush=True)
if own:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"STATUS=mine", own)
"""
    common = {"network": "host", "mounts": {**HOSTED, **PROC}}
    with runtime.client() as client:
        client.start(app)
        wait_ready(runtime, app)
        path = str(runtime.run_dir / "notify" / app / "socket")
        assert os.path.exists(path)
        for name, service in (("host-network", {}), ("other", NOTIFY)):
            spy = install_script(
                runtime, script, *PYTHON, name=name, service=dict(service), **common
            )
            with runtime.client(subscribe=True) as events:
                events.start(spy, arguments=(*PYTHON[1:], "/script", path))
                assert exit_of(events, spy) == Exited(0), runtime.text()
    assert '"reached"' not in runtime.text()
    assert notified(runtime) == []
    assert notified(runtime, "other:1.0.0") == ["STATUS=mine"]


def memory(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    (size,) = re.findall(
        r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )
    return int(size) * 1024


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_hundred_thousand_messages_at_once(runtime: RuntimeProcess, payload: Path) -> None:
    """The sender gets EAGAIN; the runtime reads 100 a second, and serves others as before."""
    words = "notify-open - ; notify-flood 100000 WATCHDOG=1 ; notify-flood 0 STATUS=flood"
    app = install(runtime, payload, args=words, service=NOTIFY)
    with runtime.client(subscribe=True) as client:
        before = memory(runtime.pid)
        begun, used = time.monotonic(), processor_time(runtime.pid)
        client.start(app)
        runtime.wait_log('"do": "notify-flood"')
        wait_until(lambda: time.monotonic() - begun > 3, "the flood goes on")
        taken, used = time.monotonic() - begun, processor_time(runtime.pid) - used
        with Watch(runtime) as watch:
            wait_until(lambda: time.monotonic() - begun > 6, "the flood goes on")
        client.kill(app, 9)
        exit_of(client, app)
        queued = sysctl.max_dgram_qlen() + 1
        assert len(notified(runtime)) <= 100 * (time.monotonic() - begun + 1) + queued
    assert watch.slowest < 0.5 * PATIENCE
    assert used < 0.3 * taken
    assert memory(runtime.pid) - before < 4 << 20
