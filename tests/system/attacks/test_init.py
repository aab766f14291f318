"""Attacks on init: to kill it, to stop it, to forge or suppress its reports."""

from __future__ import annotations

import contextlib
import errno
import signal
import struct
import time
from pathlib import Path

import pytest

from northstar import api
from northstar.launch.plan_ops import Report
from northstar.model import Exited, Signalled
from tests.system.attacks.attacker import DENIED, GENEROUS, Power, Victim, assault, refusals
from tests.system.containers import PROC, exit_of, install, pid_of, run, wait_ready
from tests.system.harness import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True

ON_INIT = (
    "cpu-limit",
    "stack-limit",
    "nice",
    "idle",
    "affinity",
    "ioprio",
    "seize",
    "attach",
    "vm-read",
    "vm-write",
    "take-descriptor",
    "setns",
    "move-pages",
    "group",
)


def test_system_calls_against_init(victim: Victim, attack: Path, power: Power) -> None:
    """Limits, priority, policy, processors, memory, descriptors, namespaces of init stay."""
    words = " ; ".join(f"on-init {what}" for what in ON_INIT)
    said = assault(victim, attack, power, f"{words} ; exit 9")
    assert set(refusals(said, "on-init").values()) <= {*DENIED, errno.ESRCH, errno.EINVAL}
    assert said.status == Exited(9)


def test_becoming_the_user_of_init(victim: Victim, attack: Path) -> None:
    """With CAP_SETUID this is possible; its limits and its memory are inaccessible all the same."""
    said = run(
        victim.runtime,
        install(victim.runtime, attack, "attacker", capabilities=list(GENEROUS)),
        "become 0xfffffffe 1000 ; on-init cpu-limit ; on-init stack-limit ; on-init seize ;"
        "on-init vm-write ; on-init take-descriptor ; exit 9",
    )
    assert said.of("become", "0xfffffffe")["result"] == 0
    assert set(refusals(said, "on-init").values()) == {errno.EPERM}
    assert said.status == Exited(9)


def test_bursts_of_signals(victim: Victim, attack: Path, power: Power) -> None:
    bursts = (
        "kill 1 KILL 100 ; kill 1 STOP 100 ; on-init signal ; storm 1 1 64 50 ; storm 0 17 18 50 ;"
        "queue 1 34 2000 ; queue 1 CHLD 2000 ; kill -1 CONT ; orphans 20"
    )
    said = assault(victim, attack, power, f"{bursts} ; exit 255")
    assert said.status == Exited(255)
    said = run(victim.runtime, "attacker:1.0.0", f"{power.before}{bursts} ; raise 34")
    assert said.status == Signalled(34)


@pytest.mark.parametrize("before", ["", "on-init idle ; on-init nice ; on-init affinity ; "])
def test_init_on_a_busy_processor(victim: Victim, attack: Path, before: str) -> None:
    """Busy processes occupy the processor of init: it reports, and it can be killed."""
    container = install(victim.runtime, attack, "attacker", args=f"{before}hogs 20 ; ready ; pause")
    with victim.runtime.client(subscribe=True) as client:
        client.start(container)
        wait_ready(victim.runtime, container)
        begun = time.monotonic()
        client.kill(container, signal.SIGKILL)
        assert exit_of(client, container) == Signalled(9)
    assert time.monotonic() - begun < 3 * PATIENCE


# ---- CAP_SYS_PTRACE gives control of init, but not of the host


def report(kind: int, index: int = 0, op: int = 0, error: int = 0, value: int = 0) -> str:
    return struct.pack("<IIIii", kind, index, op, error, value).hex()


FORGED = {
    "another-init": [report(Report.LAUNCHED, value=1)],
    "skipped": [report(Report.SKIPPED) + b"x".hex() * 1000] * 200,
    "failed": [report(Report.FAILED, index=9999)],
    "failed-step": [report(Report.FAILED, index=0xFFFFFFFF, op=77)],
    "started": [report(Report.STARTED, value=1)] * 2,
    "exit-code": [report(Report.EXITED, value=-4)],
    "exit-signal": [report(Report.EXITED, op=1, value=300)],
    "unknown": [report(77)],
    "short": ["01", "01020304"],
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_messages_of_init(victim: Victim, attack: Path, kind: str) -> None:
    """The runtime kills an init that sends an invalid message; the container can start again."""
    words = f"forge {' '.join(FORGED[kind])} ; pause"
    container = install(victim.runtime, attack, "attacker", capabilities=["CAP_SYS_PTRACE"])
    with victim.runtime.client(subscribe=True) as client:
        with contextlib.suppress(api.RefusedError):
            client.start(container, arguments=tuple(words.split()))
            exit_of(client, container)
        assert client.inspect(container).process is None
        assert run(victim.runtime, container, "exit 3").status == Exited(3)
    victim.runtime.wait_log("ERROR .*after an invalid report")


def test_a_traced_init(victim: Victim, attack: Path) -> None:
    """CAP_SYS_PTRACE allows PTRACE_SEIZE of init; the runtime can kill it all the same."""
    words = "on-init seize ; on-init vm-read ; ready ; pause"
    powers = ["CAP_SYS_PTRACE"]
    container = install(
        victim.runtime, attack, "attacker", args=words, mounts=PROC, capabilities=powers
    )
    with victim.runtime.client(subscribe=True) as client:
        client.start(container)
        wait_ready(victim.runtime, container)
        assert pid_of(client, container) > 1
        client.kill(container, signal.SIGKILL)
        assert exit_of(client, container) == Signalled(9)
