"""Supervision without polling: what a quiet container, and a ping of a watchdog, cost the runtime.

A wake-up is a voluntary context switch of one of its threads: it has waited for an event.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState
from tests.system.containers import install
from tests.system.harness import PATIENCE, RuntimeProcess, wait_until
from tests.system.services.senders import NOTIFY, PYTHON, install_script
from tests.system.services.test_restart import restart, wait_state

pytestmark = [pytest.mark.root, pytest.mark.vm]

QUIET = 3.0
"""Seconds without any wake-up."""

PINGS = 100
MARGIN = 15
"""Wake-ups for other reasons: pings before and after those that are counted."""

INFO = {"NORTHSTAR_LOG": "runtime=info,container=info"}

PING = f"""
import os, socket, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
sock.send(b"READY=1")
open("/data/begin", "w").close()
while not os.path.exists("/data/go"):
    sock.send(b"WATCHDOG=1")
    time.sleep(0.1)
for _ in range({PINGS}):
    sock.send(b"WATCHDOG=1")
    time.sleep(0.02)
open("/data/end", "w").close()
while True:
    sock.send(b"WATCHDOG=1")
    time.sleep(0.1)
"""


def wakeups(pid: int, *, main: bool = False) -> int:
    """Return the voluntary context switches of a process so far; `main`: of its first thread."""
    total = 0
    for thread in [str(pid)] if main else os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        total += int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


def in_a_while(pid: int) -> int:
    """Return the wake-ups in the next `QUIET` seconds."""
    before = wakeups(pid)
    time.sleep(QUIET)
    return wakeups(pid) - before


@pytest.mark.timeout(120 * PATIENCE)
def test_quiet_containers_cause_no_wake_up(make_runtime: Callable[..., Any], payload: Path) -> None:
    """Ready ones with all settings, and one in each other state that can last."""
    runtime: RuntimeProcess = make_runtime()
    hour = {"delay": "1h", "max_delay": "1h"}
    service = {
        **restart("always", **hour, limit=20, interval="1h"),
        **NOTIFY,
        "ready": {"probe": "notify", "timeout": "1h"},
        "watchdog": "1h",
    }
    ready = "notify-open - ; notify READY=1 ; pause"
    stop = {"stop": {"timeout": "1h"}}
    several = {
        **{f"app{number}": (ready, service, ContainerState.READY) for number in range(20)},
        "running": ("pause", service, ContainerState.RUNNING),
        "backoff": ("exit 1", restart(**hour), ContainerState.BACKOFF),
        "failed": ("exit 1", restart("never"), ContainerState.FAILED),
        "stopping": (
            "notify-open - ; notify STOPPING=1 ; pause",
            {**NOTIFY, **stop},
            ContainerState.STOPPING,
        ),
    }
    with runtime.client() as client:
        for name, (words, section, _) in several.items():
            client.start(install(runtime, payload, name, args=words, service=section))
        for name, (_, _, state) in several.items():
            wait_state(client, state, name)
    runtime.snapshot()
    wait_until(lambda: in_a_while(runtime.pid) == 0, "no wake-up", 40 * PATIENCE)
    with runtime.client() as client:
        for name, (_, _, state) in several.items():
            wait_state(client, state, name)
        client.kill("stopping", 9)


@pytest.mark.timeout(60 * PATIENCE)
def test_a_ping_costs_one_wake_up_and_no_timer(make_runtime: Callable[..., Any]) -> None:
    """The log of the other tests has a line for each message, and a thread writes it."""
    runtime: RuntimeProcess = make_runtime(environment=INFO)
    service = {**NOTIFY, "watchdog": "1s"}
    mounts = {"/data": {"type": "persist"}}
    for name in ("usr", "lib", "lib64"):
        mounts[f"/{name}"] = {"type": "bind", "host": f"/{name}"}
    app = install_script(runtime, PING, *PYTHON, service=service, mounts=mounts)
    data = runtime.data_dir / "app"
    with runtime.client() as client:
        client.start(app)
    wait_until((data / "begin").exists, "it has begun")
    runtime.snapshot()
    before, begun = wakeups(runtime.pid, main=True), time.monotonic()
    (data / "go").touch()
    wait_until((data / "end").exists, "it has sent all")
    found = wakeups(runtime.pid, main=True) - before
    # On a busy machine the runtime reads several messages in one turn.
    timers = 3 * (time.monotonic() - begun)
    assert PINGS // 10 < found <= PINGS + MARGIN + timers, found
    assert "watchdog" not in runtime.text()
