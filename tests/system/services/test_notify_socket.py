"""The notify socket: its mount, what a start and an end leave, and who reaches it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from northstar.linux import sysctl
from northstar.model import Container, Exited
from northstar.runtime import notify
from tests.system.containers import (
    PROC,
    Watch,
    exit_of,
    install,
    refused,
    run,
    wait_ready,
)
from tests.system.harness import PATIENCE, RuntimeProcess, wait_until
from tests.system.services.senders import (
    HOSTED,
    NOTIFY,
    PYTHON,
    install_script,
    notified,
)

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

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
    common: dict[str, Any] = {"network": "host", "mounts": {**HOSTED, **PROC}}
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
    assert watch.slowest < 1.0 * PATIENCE
    assert used < 0.3 * taken
    assert memory(runtime.pid) - before < 4 << 20
