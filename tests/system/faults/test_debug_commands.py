"""Debug commands run in the runtime's mount namespace, and end with the runtime in any case."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.client import blocking
from northstar.model import Signalled
from tests.system import host
from tests.system.containers import exit_of, install, wait_ready
from tests.system.harness import PATIENCE, RuntimeProcess, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]

NESTED = """#!/bin/sh
trap '' TERM HUP INT
sleep 1001 &
setsid sh -c 'trap "" TERM; sleep 1002 & sleep 1003; :' &
setsid sh -c 'sleep 1004 & exit' &
wait %3
echo running
exec sleep 1005
"""
"""Children in other sessions, one of them an orphan; all but one ignore SIGTERM."""

SLEEPING = [f"sleep {1000 + number}" for number in range(1, 6)]


def start(make_runtime: Callable[..., Any], payload: Path, script: str) -> RuntimeProcess:
    """Start a runtime and a container whose debug command is a script that prints `running`."""
    runtime: RuntimeProcess = make_runtime(start=False)
    command = runtime.directory / "command"
    command.write_text(script)
    command.chmod(0o700)
    with runtime.configuration.open("a") as file:
        file.write(f'[debug]\ncommands = ["{command}"]\n')
    runtime.start()
    container = install(runtime, payload, args="ready ; pause")
    with runtime.client() as client:
        client.start(container)
    wait_ready(runtime, container)
    runtime.wait_log(f"INFO +{container}: running$")
    return runtime


def sleeping(runtime: RuntimeProcess) -> dict[int, str]:
    """Return the processes `sleep` below the runtime."""
    found = {pid: host.command(pid) for pid in host.descendants(runtime.pid)}
    return {pid: command for pid, command in found.items() if command.startswith("sleep 100")}


def test_a_killed_runtime(make_runtime: Callable[..., Any], payload: Path) -> None:
    runtime = start(make_runtime, payload, NESTED)
    wait_until(lambda: sorted(sleeping(runtime).values()) == SLEEPING, "all of them run")
    pids = [os.pidfd_open(pid) for pid in sleeping(runtime)]
    runtime.kill()  # waits for its descendants and its loop devices
    for pidfd in pids:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, 0)
        os.close(pidfd)


def test_a_shutdown_does_not_wait_for_those_that_ignore_sigterm(
    make_runtime: Callable[..., Any], payload: Path
) -> None:
    runtime = start(make_runtime, payload, NESTED)
    began = time.monotonic()
    runtime.stop()  # checks that nothing is left
    assert time.monotonic() - began < 4 * PATIENCE


def test_a_shutdown_gives_them_time_to_end(make_runtime: Callable[..., Any], payload: Path) -> None:
    script = (
        "#!/bin/sh\ntrap 'sleep 0.3; echo finished; exit' TERM\necho running\n"
        "while :; do sleep 0.02; done\n"
    )
    runtime = start(make_runtime, payload, script)
    runtime.stop()
    assert re.search(r"INFO +app:1.0.0: finished$", runtime.text(), re.MULTILINE)


def test_a_killed_supervisor_takes_its_command_along(
    make_runtime: Callable[..., Any], payload: Path
) -> None:
    runtime = start(make_runtime, payload, "#!/bin/sh\necho running\nexec sleep 1001\n")
    wait_until(lambda: sleeping(runtime), "it runs")
    (pid,) = sleeping(runtime)
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{supervisor}/comm").read_text() == "northstar-debug\n"
    # Other signals have no effect: a terminal sends SIGINT to the whole process group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(supervisor, number)
    switches = context_switches(supervisor)
    os.kill(supervisor, signal.SIGCHLD)  # wakes it up
    wait_until(lambda: context_switches(supervisor) != switches, "it has woken up")
    assert host.state(supervisor) != "Z"
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: host.state(pid) in (None, "Z"), "its command has ended")
    runtime.stop()


def context_switches(pid: int) -> str:
    """Return the context switches of a process, as text, which differs for a zombie."""
    match = re.search(r"voluntary_ctxt_switches:\s+\d+", Path(f"/proc/{pid}/status").read_text())
    return match[0] if match else ""


def test_commands_that_cannot_run(make_runtime: Callable[..., Any], payload: Path) -> None:
    """Each leads to a warning; the container starts, and nothing is left of them."""
    reasons = {
        "": "it is empty",
        "/etc/passwd": "Permission denied",
        "/no/such x": "No such file or directory",
        "no-such-program": "No such file or directory",
    }
    commands = json.dumps([*reasons, "echo ok"])
    runtime: RuntimeProcess = make_runtime(tables=f"[debug]\ncommands = {commands}\n")
    container = install(runtime, payload, args="ready ; pause")

    def cycle(client: blocking.Client) -> None:
        since = len(runtime.text())
        client.start(container)
        wait_ready(runtime, container, since=since)
        for command, reason in reasons.items():
            line = f"WARN .*debug command '{command}' for {container}: {reason}$"
            runtime.wait_log(line, since=since)
        runtime.wait_log(f"INFO +{container}: ok$", since=since)
        client.kill(container, 9)
        assert exit_of(client, container) == Signalled(9)

    launcher = runtime.snapshot().processes
    with runtime.client(subscribe=True) as client:
        cycle(client)
        wait_until(lambda: runtime.snapshot().processes == launcher, "all have ended")
        before = runtime.snapshot()
        cycle(client)
        runtime.assert_no_leak(before)
    runtime.stop()
