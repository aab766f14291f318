"""Probes of readiness and health, on a real runtime: connections and programs."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState, Wanted
from northstar.model import Signalled
from tests.system import host
from tests.system.containers import install, pid_of
from tests.system.harness import RuntimeProcess, wait_until
from tests.system.services.probes import (
    LISTEN,
    RESTART,
    TMP,
    health,
    listener,
    ready,
    status,
    wait_state,
)
from tests.system.services.senders import HOSTED, PYTHON, SHELL, install_script, payload_pid

pytestmark = pytest.mark.root

PORT = 4711
LIMITED = {"cgroups": {"pids": {"max": 12}}}
HANGING = ["/usr/bin/sleep", "1000"]


def start(runtime: RuntimeProcess, script: str, *arguments: str, **fields: Any) -> str:
    """Install and start a container that runs a script."""
    container = install_script(runtime, script, *arguments, **fields)
    with runtime.client() as client:
        client.start(container)
    return container


def listening(runtime: RuntimeProcess, kind: str, place: object, **fields: Any) -> str:
    """Start a container that listens."""
    given = listener(kind, place, **fields)
    container = install_script(runtime, LISTEN, *PYTHON, **given)
    with runtime.client() as client:
        client.start(container)
    return container


def checked(runtime: RuntimeProcess, check: str, **fields: Any) -> str:
    """Start a container that waits, with a script as the probe of its health."""
    name = str(fields.get("name", "app"))
    path = runtime.directory / f"check-{name}"
    path.write_text(check)
    probe = {"exec": [SHELL, "/check"]}
    service = {
        "health": health(probe, **fields.pop("health", {})),
        "stop": {"timeout": "1s"},
        **fields.pop("service", {}),
    }
    mounts = {**HOSTED, **TMP, "/dev": {"type": "dev"}}
    script = fields.pop("script", "exec sleep 1000")
    files = {"check": path}
    return start(runtime, script, SHELL, service=service, mounts=mounts, files=files, **fields)


def probes(runtime: RuntimeProcess, container: str = "app:1.0.0") -> list[str]:
    """Return what the log says about failed probes of a container."""
    return re.findall(rf"Probe of {re.escape(container)} (.*)$", runtime.text(), re.MULTILINE)


# Connections.


@pytest.mark.parametrize(
    ("kind", "place", "address"),
    [
        ("tcp", PORT, f"tcp:{PORT}"),
        ("tcp6", PORT, f"tcp:{PORT}"),
        ("unix", "/tmp/sock", "unix:/tmp/sock"),
        ("packets", "/tmp/sock", "unix:/tmp/sock"),
    ],
)
def test_ready_by_a_connection(
    runtime: RuntimeProcess, kind: str, place: object, address: str
) -> None:
    probe = {"connect": address}
    service = {"ready": ready(probe), "health": health(probe)}
    container = listening(runtime, kind, place, service=service)
    with runtime.client() as client:
        wait_state(client, ContainerState.READY)
        client.stop(container)
        before = runtime.snapshot()
        client.start(container)
        wait_state(client, ContainerState.READY)
        client.restart(container)
        wait_state(client, ContainerState.READY)
        client.stop(container)
        runtime.assert_no_leak(before)
    assert probes(runtime) == []


@pytest.mark.parametrize("address", [f"tcp:{PORT}", "unix:/tmp/sock"])
def test_nobody_listens(runtime: RuntimeProcess, payload: Path, address: str) -> None:
    service = {"ready": ready({"connect": address}, timeout="300ms")}
    install(runtime, payload, args="pause", mounts=TMP, service=service)
    with runtime.client() as client:
        client.start("app")
        found = wait_state(client, ContainerState.FAILED)
    assert found.reason == "not ready within 300ms"
    reason = "Connection refused" if address.startswith("tcp") else "No such file or directory"
    assert probes(runtime) == [f"has failed: {address}: {reason}"]


def test_a_connection_is_made_in_the_network_of_the_container(
    runtime: RuntimeProcess, payload: Path
) -> None:
    service = {"ready": ready({"connect": f"tcp:{PORT}"}, timeout="1h")}
    install(runtime, payload, args="pause", service=service)
    install(runtime, payload, "open", args="pause", network="host", service=service)
    with listener_beside(runtime), runtime.client() as client:
        client.start("app")
        client.start("open")
        wait_state(client, ContainerState.READY, "open")
        with pytest.raises(AssertionError):
            wait_until(lambda: status(client).state is ContainerState.READY, "it is ready", 2.5)
        assert status(client).state is ContainerState.RUNNING
        client.stop("app")
    # The thread that has made the sockets is back.
    own = os.readlink(f"/proc/{runtime.pid}/ns/net")
    threads = [os.readlink(path / "ns/net") for path in Path(f"/proc/{runtime.pid}/task").iterdir()]
    assert set(threads) == {own}


@contextlib.contextmanager
def listener_beside(runtime: RuntimeProcess) -> Iterator[None]:
    """Listen at `PORT` in the network of the runtime."""
    import subprocess

    command = runtime.enter(*PYTHON, "-c", LISTEN, "tcp", str(PORT))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"listening\n"
            yield
        finally:
            process.kill()


def test_a_probe_of_the_readiness_that_takes_long_to_succeed(runtime: RuntimeProcess) -> None:
    script = f"import time; time.sleep(3)\n{LISTEN}"
    given = listener("tcp", PORT, service={"ready": ready({"connect": f"tcp:{PORT}"})})
    install_script(runtime, script, *PYTHON, **given)
    with runtime.client(subscribe=True) as client:
        client.start("app", wait=True)
        found = status(client)
    assert found.state is ContainerState.READY
    assert found.restarts == 0


FULL = LISTEN.replace("sock.listen(100)", "sock.listen(0)").replace(
    "sock.accept()[0].close()", "time.sleep(1000)"
)


@pytest.mark.parametrize(("kind", "place"), [("unix", "/tmp/sock"), ("tcp", PORT)])
def test_a_listener_that_does_not_accept(runtime: RuntimeProcess, kind: str, place: object) -> None:
    address = f"{kind}:{place}"
    service = {
        "ready": ready({"connect": address}),
        "health": health({"connect": address}, timeout="300ms", failures=1),
    }
    given = listener(kind, place, service=service)
    install_script(runtime, FULL, *PYTHON, **given)
    with runtime.client() as client:
        client.start("app")
        found = wait_state(client, ContainerState.FAILED)
    assert found.reason == f"unhealthy: {address}: timeout"


def test_a_listener_that_ends(runtime: RuntimeProcess) -> None:
    """It listens for four connections, and restarts when nobody listens any more."""
    script = LISTEN.replace("while True:", "for _ in range(4):") + "\ntime.sleep(1000)"
    probe = {"connect": f"tcp:{PORT}"}
    service = {"restart": RESTART, "ready": ready(probe), "health": health(probe)}
    given = listener("tcp", PORT, service=service)
    install_script(runtime, script, *PYTHON, **given)
    with runtime.client() as client:
        client.start("app")
        wait_until(lambda: status(client).restarts >= 1, "it was restarted")
    expected = f"has failed (3 of 3): tcp:{PORT}: Connection refused"
    assert expected in probes(runtime)


# Programs.

COUNT = """
n=$(cat /tmp/n 2>/dev/null || echo 0)
n=$((n + 1))
echo $n > /tmp/n
case $n in
{cases}
esac
echo queue is
echo stuck >&2
exit 1
"""


def test_three_failures_and_a_success_between(runtime: RuntimeProcess) -> None:
    checked(runtime, COUNT.replace("{cases}", "1|4) exit 0;;"))
    with runtime.client() as client:
        found = wait_state(client, ContainerState.FAILED)
    assert found.reason == "unhealthy: exit 1: queue is stuck"
    assert found.wanted is Wanted.DOWN
    numbers = ["1", "2", "1", "2", "3"]
    assert probes(runtime) == [f"has failed ({n} of 3): exit 1: queue is stuck" for n in numbers]
    shown = runtime.nstar("status").stdout
    assert "unhealthy: exit 1: queue is stuck" in shown


def test_an_unhealthy_container_is_restarted(runtime: RuntimeProcess) -> None:
    checked(runtime, "exit 7", service={"restart": RESTART})
    with runtime.client() as client:
        wait_until(lambda: status(client).restarts >= 2, "it was restarted twice")
    reason = r"\(unhealthy: exit 7\)"
    for state in ("unhealthy", "stopping", "backoff"):
        runtime.wait_log(rf"State of app:1\.0\.0: {state} {reason}")


def test_action_none_only_shows(runtime: RuntimeProcess) -> None:
    cases = "1|2|9|1?) exit 0;;"
    checked(runtime, COUNT.replace("{cases}", cases), health={"action": "none"})
    with runtime.client() as client:
        first = pid_of(client, "app:1.0.0")
        found = wait_state(client, ContainerState.UNHEALTHY)
        assert found.reason == "unhealthy: exit 1: queue is stuck"
        assert wait_state(client, ContainerState.READY).reason == ""
        assert pid_of(client, "app:1.0.0") == first


def test_a_timeout_ends_the_probe(runtime: RuntimeProcess) -> None:
    check = "echo begun; sleep 1000 & sleep 1000"
    action = {"failures": 2, "timeout": "500ms", "action": "none"}
    container = checked(runtime, check, health=action)
    with runtime.client() as client:
        found = wait_state(client, ContainerState.UNHEALTHY)
        assert found.reason == "unhealthy: timeout: begun"
        client.stop(container)
    assert host.descendants(runtime.pid) == [runtime.launcher]


def test_a_probe_that_forks_and_leaves(runtime: RuntimeProcess) -> None:
    # The processes that it leaves keep its output open.
    container = checked(runtime, f"sleep 1000 &\n{COUNT.replace('{cases}', '1|2|3|4) exit 0;;')}")
    with runtime.client() as client:
        found = wait_state(client, ContainerState.FAILED)
        assert found.reason == "unhealthy: exit 1: queue is stuck"
        assert client.status(container)
    assert probes(runtime)[0].startswith("has failed (1 of 3)")
    assert host.descendants(runtime.pid) == [runtime.launcher]


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ("head -c 3000000 /dev/zero; exit 3", "exit 3: " + "\\x00" * 200),
        ("printf 'a\\033[31mb\\n\\n c\\351'; exit 4", r"exit 4: a\x1b[31mb c\xe9"),
        ("printf '%199s\\303\\251' | tr ' ' a; exit 5", "exit 5: " + 199 * "a"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("exit 255", "exit 255"),
    ],
)
def test_the_reason(runtime: RuntimeProcess, check: str, reason: str) -> None:
    checked(runtime, check, health={"failures": 1})
    with runtime.client() as client:
        assert wait_state(client, ContainerState.FAILED).reason == f"unhealthy: {reason}"


def test_a_program_that_is_missing(runtime: RuntimeProcess, payload: Path) -> None:
    service = {"health": health({"exec": ["/bin/absent"]}, failures=1)}
    install(runtime, payload, args="pause", service=service)
    with runtime.client() as client:
        client.start("app")
        found = wait_state(client, ContainerState.FAILED)
    assert found.reason.startswith("unhealthy: cannot ")
    assert "/bin/absent in app:1.0.0" in found.reason
    assert found.reason.endswith("No such file or directory")


def test_ready_by_a_program(runtime: RuntimeProcess) -> None:
    probe = {"exec": [SHELL, "-c", "test -e /tmp/made"]}
    script = "sleep 1.5; > /tmp/made; exec sleep 1000"
    install_script(
        runtime,
        script,
        SHELL,
        service={"ready": ready(probe)},
        mounts={**HOSTED, **TMP, "/dev": {"type": "dev"}},
    )
    with runtime.client(subscribe=True) as client:
        client.start("app", wait=True)
        assert status(client).state is ContainerState.READY


@pytest.mark.parametrize("end", ["stop", "exit"])
def test_an_end_during_a_probe(runtime: RuntimeProcess, end: str) -> None:
    service = {"ready": ready({"exec": HANGING}), "stop": {"timeout": "20s"}}
    container = start(runtime, "exec sleep 1000", SHELL, service=service)
    with runtime.client() as client:
        init = pid_of(client, container)
        wait_until(lambda: len(members(runtime, init)) >= 2, "the probe runs")
        if end == "stop":
            client.stop(container)
        else:
            os.kill(init, signal.SIGKILL)
        wait_until(lambda: status(client).state is not ContainerState.RUNNING, "it has ended")
        wait_until(
            lambda: host.descendants(runtime.pid) == [runtime.launcher], "no process is left"
        )
    assert probes(runtime) == []


def members(runtime: RuntimeProcess, init: int) -> list[int]:
    """Return the processes in the PID namespace of a container, except its init."""
    space = os.readlink(f"/proc/{init}/ns/pid")
    found = []
    for pid in host.descendants(runtime.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if pid != init and os.readlink(f"/proc/{pid}/ns/pid") == space:
                found.append(pid)
    return found


def test_a_fork_bomb_is_unhealthy_and_restarted(runtime: RuntimeProcess) -> None:
    script = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except BlockingIOError:
        time.sleep(0.1)
"""
    service = {
        "restart": RESTART,
        "health": health({"exec": ["/usr/bin/true"]}),
        "stop": {"timeout": "300ms"},
    }
    start(runtime, script, *PYTHON, service=service, **LIMITED)
    with runtime.client() as client:
        wait_until(lambda: status(client).restarts >= 1, "it was restarted")
    reason = "cannot fork in app:1.0.0: Resource temporarily unavailable (its pids limit is 12)"
    assert f"has failed (3 of 3): {reason}" in probes(runtime)
    with runtime.client() as client:
        client.kill("app", 9)


def test_a_stopped_payload_misses_its_watchdog(runtime: RuntimeProcess) -> None:
    # Probes by a program succeed meanwhile: the kernel executes them without the payload.
    script = """
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    while True:
        sock.sendto(b"WATCHDOG=1", os.environ["NOTIFY_SOCKET"])
        time.sleep(0.1)
"""
    service = {
        "notify": "/run/notify",
        "watchdog": "3s",
        "health": health({"exec": ["/usr/bin/true"]}),
        "stop": {"timeout": "300ms"},
    }
    container = start(runtime, script, *PYTHON, service=service)
    with runtime.client(subscribe=True) as client:
        os.kill(payload_pid(client, container), signal.SIGSTOP)
        found = wait_state(client, ContainerState.FAILED)
        assert found.reason == "watchdog"
        assert found.last == Signalled(signal.SIGKILL)
    runtime.wait_log(r"Killing app:1\.0\.0 with SIGKILL")
    assert probes(runtime) == []


# What the runtime lacks.


@contextlib.contextmanager
def without_descriptors(runtime: RuntimeProcess) -> Iterator[None]:
    """Let the runtime open no more descriptors."""
    limits = resource.prlimit(runtime.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(runtime.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(runtime.pid, resource.RLIMIT_NOFILE, limits)


def test_without_descriptors_nothing_is_restarted(runtime: RuntimeProcess) -> None:
    script = "trap '> /tmp/bad' HUP; while :; do sleep 0.1; done"
    check = "! test -e /tmp/bad"
    app = checked(runtime, check, script=script, service={"restart": RESTART})
    probe = {"connect": f"tcp:{PORT}"}
    service = {"restart": RESTART, "ready": ready(probe), "health": health(probe)}
    other = listening(runtime, "tcp", PORT, name="other", service=service)
    with runtime.client() as client:
        wait_state(client, ContainerState.READY, "other")
        first = {one: pid_of(client, one) for one in (app, other)}
        with without_descriptors(runtime):
            runtime.wait_log("Cannot probe .*Too many open files")
            since = len(runtime.text())
            with pytest.raises(AssertionError):  # meanwhile there would be 20 probes of each
                wait_until(lambda: "State of" in runtime.text()[since:], "a change of state", 2.0)
        assert {one: pid_of(client, one) for one in first} == first
        assert len(re.findall("Cannot probe", runtime.text())) == 1
        assert probes(runtime) == probes(runtime, other) == []
        # Now they are probed again.
        client.kill("app", signal.SIGHUP)
        wait_until(lambda: status(client).restarts == 1, "it is restarted")
    assert "has failed (3 of 3): exit 1" in probes(runtime)


def test_max_probes(make_runtime: Callable[..., RuntimeProcess], payload: Path) -> None:
    runtime = make_runtime(top="max_probes = 1")
    hanging = {"ready": ready({"exec": ["/payload", "pause"]}, timeout="1h")}
    install(runtime, payload, "one", args="pause", service=hanging)
    other = {"ready": ready({"exec": ["/payload", "exit", "0"]}, timeout="1h")}
    install(runtime, payload, "other", args="pause", service=other)
    with runtime.client() as client:
        for _ in range(2):
            client.start("one")
            client.start("other")
            # Its probe has the place for 5 s, which is the time for a probe of the readiness.
            assert status(client, "other").state is ContainerState.RUNNING
            client.stop("one")
            wait_state(client, ContainerState.READY, "other")
            client.stop("other")


def test_the_shutdown_during_probes(
    make_runtime: Callable[..., RuntimeProcess], payload: Path
) -> None:
    runtime = make_runtime()
    for number in range(6):
        probe = {"exec": ["/payload", "pause"]}
        service = {"ready": ready(probe, timeout="1h"), "stop": {"timeout": "20s"}}
        install(runtime, payload, f"app{number}", args="pause", service=service)
        with runtime.client() as client:
            client.start(f"app{number}")
    runtime.stop()
    runtime.assert_nothing_left()
    assert "Failed to" not in runtime.text()


def test_an_older_kernel_refuses_unix_probes(
    make_runtime: Callable[..., RuntimeProcess], payload: Path
) -> None:
    runtime = make_runtime(older=True)
    for field in ("ready", "health"):
        probe = {"connect": "unix:/run/app.sock"}
        install(runtime, payload, field, args="pause", service={field: {"probe": probe}})
        done = runtime.nstar("start", field, check=False)
        assert done.returncode == 1
        assert f"service.{field}.probe: connecting to a Unix socket" in done.stderr
        assert "older than Linux 5.6" in done.stderr
    install(runtime, payload, "tcp", args="pause", service={"health": health({"connect": "tcp:1"})})
    runtime.nstar("start", "tcp")
