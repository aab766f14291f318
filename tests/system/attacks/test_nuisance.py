"""Attempts to slow the runtime or other containers, and to survive the end of a container."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.client import blocking
from northstar.model import Exited, Signalled
from tests.system import host
from tests.system.attacks.attacker import Power, Victim, assault
from tests.system.containers import exit_of, install, pid_of, run, wait_ready
from tests.system.harness import PATIENCE, RuntimeProcess, wait_until

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

# ---- Output


def starts(victim: Victim, container: str, times: int = 9) -> list[float]:
    """Start a container that exits at once repeatedly; return the seconds of each start."""
    taken = []
    with victim.runtime.client(subscribe=True) as client:
        for _ in range(times):
            begun = time.monotonic()
            client.start(container)
            taken.append(time.monotonic() - begun)
            assert exit_of(client, container) == Exited(0)
    return taken


FLOODS = {
    "lines": "flood 0",
    "no-lines": "garbage 0",
    "forks": "bomb ; pause",
    "console": "deaf 3 ; pause",
    "notify": "notify-open - ; notify-flood 0 WATCHDOG=1",
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_output_does_not_slow_other_starts(
    victim: Victim, attack: Path, kind: str
) -> None:
    """With the flood on the same machine a start takes not much longer."""
    innocent = install(victim.runtime, attack, "innocent", args="exit 0")
    attacker = install(
        victim.runtime,
        attack,
        "attacker",
        args=FLOODS[kind],
        cgroups={"pids": {"max": 30}},
        console={"permissions": "full"},
        service={"notify": "/run/notify"},
    )
    quiet = statistics.median(starts(victim, innocent))
    with victim.runtime.client(subscribe=True) as client:
        client.start(attacker)
        loud = statistics.median(starts(victim, innocent))
        client.kill(attacker, signal.SIGKILL)
        assert exit_of(client, attacker) == Signalled(9)
    assert loud < 10 * quiet + 0.05 * PATIENCE, f"{loud:.4f} s instead of {quiet:.4f} s"


def test_binary_output_is_escaped(victim: Victim, attack: Path) -> None:
    """Escapes prevent forged log lines and terminal control sequences."""
    said = run(
        victim.runtime,
        install(victim.runtime, attack, "attacker"),
        "garbage 100000 ; ready ; exit 0",
    )
    assert said.status == Exited(0)
    log = victim.runtime.log.read_bytes()
    assert all(byte in b"\t\n" or byte >= 0x20 for byte in log)
    assert log.decode().isprintable() or "\x1b" not in log.decode()
    stray = [line for line in log.splitlines() if line and not line[:4].isdigit()]
    assert stray == []


def test_deceptive_characters_are_escaped(victim: Victim, attack: Path) -> None:
    """The log escapes bidirectional overrides and zero-width characters."""
    hostile = "\u202e}0 :edoc tixe{\u2066 \u200badmin\u2069 \U000e0041\u2028"
    container = install(victim.runtime, attack, "attacker")
    run(victim.runtime, container, ["say", hostile, ";", "cry", hostile])
    text = victim.runtime.text()
    assert text.count(f"DEBUG {container}: {ascii(hostile)[1:-1]}\n") == 2
    assert not set(hostile) - set(map(chr, range(128))) & set(text)


# ---- The console


@contextlib.contextmanager
def at_the_console(victim: Victim, attack: Path, words: str) -> Iterator[blocking.Client]:
    """Run commands on a container's console; they must continue until the container is killed."""
    runtime = victim.runtime
    words = f"{words} ; ready ; pause"
    attacker = install(runtime, attack, "attacker", args=words, console={"permissions": "full"})
    with runtime.client(subscribe=True) as client:
        client.start(attacker)
        wait_ready(runtime, attacker)
        yield client
        client.kill(attacker, signal.SIGKILL)
        assert exit_of(client, attacker) == Signalled(9)


def test_descriptors_to_the_console(victim: Victim, attack: Path) -> None:
    """The runtime closes all descriptors that arrive with a container's requests."""
    with at_the_console(victim, attack, "rights 3 20") as client:
        descriptors = f"/proc/{victim.runtime.pid}/fd"
        before = len(os.listdir(descriptors))
        for _ in range(20):
            client.list()
        assert len(os.listdir(descriptors)) <= before
        assert before < 100


def test_a_container_that_reads_no_answer(victim: Victim, attack: Path) -> None:
    with at_the_console(victim, attack, "deaf 3") as client:
        begun = time.monotonic()
        for _ in range(20):
            client.list()
        assert time.monotonic() - begun < 5 * PATIENCE


# ---- Resisting the end

STUBBORN = {
    "ignores": "ignore TERM INT HUP QUIT ; ready ; pause",
    "stops-itself": "ready ; raise STOP",
    "moves-away": "session ; fork ; ignore TERM ; ready ; pause",
    "forks-away": "abandon ; abandon ; ready ; pause",
    "floods": "flood 0",
    "bombs": "bomb ; ready ; pause",
    "burns": "hogs 10 ; ready ; pause",
}


def wait_stubborn(runtime: RuntimeProcess, attacker: str, kind: str) -> None:
    """Wait until a container of STUBBORN is at work. A flood overwrites what it has said before."""
    if kind == "floods":
        lost = "bytes of its output are lost here"
        runtime.wait_log(rf"DEBUG {re.escape(attacker)}: .* {lost}")
    else:
        wait_ready(runtime, attacker)


@pytest.mark.vm
@pytest.mark.parametrize("kind", STUBBORN)
def test_containers_that_resist_their_end(victim: Victim, attack: Path, kind: str) -> None:
    """SIGTERM may have no effect; SIGKILL soon ends all processes."""
    runtime = victim.runtime
    attacker = install(
        runtime, attack, "attacker", args=STUBBORN[kind], cgroups={"pids": {"max": 20}}
    )
    with runtime.client(subscribe=True) as client:
        client.start(attacker)
        wait_stubborn(runtime, attacker, kind)
        init = pid_of(client, attacker)
        processes = [init, *host.descendants(init)]
        assert len(processes) > 1
        # `burns` has no handler for this one, and dies.
        client.kill(attacker, signal.SIGCONT if kind == "burns" else signal.SIGSTOP)
        begun = time.monotonic()
        client.kill(attacker, signal.SIGKILL)
        assert exit_of(client, attacker) == Signalled(9)
        assert time.monotonic() - begun < 3 * PATIENCE
    assert [pid for pid in processes if host.state(pid) not in (None, "Z")] == []


@pytest.mark.parametrize("words", ["abandon ; exit 7", "hogs 5 ; exit 7", "orphans 5 ; exit 7"])
def test_orphans_end_with_the_payload(victim: Victim, attack: Path, words: str) -> None:
    """Orphans end with the payload, and its exit code is reported."""
    before = set(host.descendants(victim.runtime.pid))
    said = run(victim.runtime, install(victim.runtime, attack, "attacker"), words)
    assert said.status == Exited(7)
    gone = functools.partial(lambda: set(host.descendants(victim.runtime.pid)) <= before)
    wait_until(gone, "no process is left")


@pytest.mark.vm
def test_a_fork_bomb(victim: Victim, attack: Path, power: Power) -> None:
    said = assault(victim, attack, power, "bomb ; exit 4", cgroups={"pids": {"max": 20}})
    assert said.of("bomb")["errno"] == errno.EAGAIN
    assert said.of("bomb")["result"] == 18  # 20 with the payload and init
    assert said.status == Exited(4)
