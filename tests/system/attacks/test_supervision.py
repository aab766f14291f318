"""Attacks on the supervision: floods of messages, refusal to end, and very large numbers."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from northstar.api import ContainerState, Wanted, notification
from northstar.client import blocking
from northstar.core import pacing
from northstar.core.supervision import EXTENSION_MAX
from northstar.model import Exited, Signalled
from tests.system import host
from tests.system.attacks.attacker import Victim
from tests.system.attacks.test_nuisance import STUBBORN, wait_stubborn
from tests.system.containers import install, pid_of, raw, wait_ready
from tests.system.harness import PATIENCE, TIMEOUT, wait_until
from tests.system.services.senders import NOTIFY, notified
from tests.system.services.test_order import READY
from tests.system.services.test_restart import restart, status, wait_state

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True

CONTAINER = "attacker:1.0.0"
U64_MAX = 2**64 - 1
YEAR = 365 * 86400 * 10**9


def states(client: blocking.Client, last: ContainerState) -> list[str]:
    """Return the states of the notifications up to one with this state."""
    found = []
    for event in client.notifications(timeout=TIMEOUT):
        if isinstance(event, notification.State):
            found.append(event.status.state.value)
            if event.status.state is last:
                break
    return found


# ---- Messages


def test_a_flood_of_status_texts_notifies_no_subscriber(victim: Victim, attack: Path) -> None:
    """Notifications are for changes of state and wanted; a text is in the next status."""
    runtime = victim.runtime
    words = "notify-open - ; notify READY=1 ; notify-flood 0 STATUS=text"
    install(runtime, attack, "attacker", args=words, service=READY)
    with runtime.client(subscribe=True) as client:
        client.start(CONTAINER)
        wait_until(lambda: len(notified(runtime, CONTAINER)) > 150, "messages of two seconds")
        assert status(client, CONTAINER).text == "text"
        client.kill(CONTAINER, 9)
        found = states(client, ContainerState.INSTALLED)
    assert found == ["starting", "running", "ready", "stopping", "installed"]


def test_alternating_messages_change_the_state_once(victim: Victim, attack: Path) -> None:
    """A container that has announced its end is not ready again, and ends in the time of a stop."""
    runtime = victim.runtime
    words = (
        "ignore TERM ; notify-open - ; " + "notify READY=1 ; notify STOPPING=1 ; " * 40 + "pause"
    )
    service = {**READY, "stop": {"timeout": "500ms"}}
    install(runtime, attack, "attacker", args=words, service=service)
    with runtime.client(subscribe=True) as client:
        client.start(CONTAINER)
        found = states(client, ContainerState.FAILED)
        assert status(client, CONTAINER).last == Signalled(9)
    assert found == ["starting", "running", "ready", "stopping", "failed"]


def test_a_flood_of_failures_is_one_failure_per_run(victim: Victim, attack: Path) -> None:
    runtime = victim.runtime
    words = "ignore TERM ; notify-open - ; notify-flood 0 WATCHDOG=trigger"
    service = {
        **NOTIFY,
        **restart("always", delay="1ns", max_delay="1ns"),
        "stop": {"timeout": "1ns"},
    }
    install(runtime, attack, "attacker", args=words, service=service)
    with runtime.client() as client:
        begun = time.monotonic()
        client.start(CONTAINER)
        wait_until(lambda: status(client, CONTAINER).run >= 20, "twenty runs")
        client.stop(CONTAINER)
        took, runs = time.monotonic() - begun, status(client, CONTAINER).run
    text = runtime.text()
    assert text.count(f"State of {CONTAINER}: unhealthy (watchdog)") <= runs
    assert runs <= 1 + pacing.BURST + took * pacing.RESTARTS_PER_SECOND + 1


# ---- Resisting the end


@pytest.mark.parametrize("kind", STUBBORN)
def test_a_stop_ends_what_resists_and_does_not_restart_it(
    victim: Victim, attack: Path, kind: str
) -> None:
    runtime = victim.runtime
    install(
        runtime,
        attack,
        "attacker",
        args=STUBBORN[kind],
        cgroups={"pids": {"max": 20}},
        service={**restart("always"), "stop": {"timeout": "1h"}},
    )
    with runtime.client() as client:
        client.start(CONTAINER)
        wait_stubborn(runtime, CONTAINER, kind)
        init = pid_of(client, CONTAINER)
        processes = [init, *host.descendants(init)]
        begun = time.monotonic()
        ended = client.stop(CONTAINER, 0.2)
        assert time.monotonic() - begun < 3 * PATIENCE
        found = status(client, CONTAINER)
        assert (found.state, found.wanted) == (ContainerState.INSTALLED, Wanted.DOWN)
        assert (found.run, found.restarts) == (1, 0)
        if kind in ("ignores", "moves-away", "stops-itself"):
            assert ended.killed
            assert found.last == Signalled(9)
    assert [pid for pid in processes if host.state(pid) not in (None, "Z")] == []


def test_extensions_without_end(victim: Victim, attack: Path) -> None:
    """All extensions together are bounded, whatever the number and however many there are."""
    runtime = victim.runtime
    words = f"ignore TERM ; notify-open - ; notify-flood 0 EXTEND_TIMEOUT_USEC={U64_MAX}"
    service = {
        **NOTIFY,
        "ready": {"probe": "notify", "timeout": "150ms"},
        "stop": {"timeout": "100ms"},
    }
    install(runtime, attack, "attacker", args=words, service=service)
    with runtime.client() as client:
        client.start(CONTAINER)
        begun = time.monotonic()
        found = wait_state(client, ContainerState.FAILED, CONTAINER)
        took = time.monotonic() - begun
    assert found.reason == f"not ready within {150 * EXTENSION_MAX}ms"
    assert 0.14 * EXTENSION_MAX < took < 0.15 * EXTENSION_MAX + 4 * PATIENCE


# ---- Large numbers


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "", "x", str(U64_MAX + 1), "9" * 4000])
def test_extensions_that_are_none(victim: Victim, attack: Path, number: str) -> None:
    runtime = victim.runtime
    words = ["notify-open", "-", ";", "notify", f"EXTEND_TIMEOUT_USEC={number}", ";", "pause"]
    service = {**NOTIFY, "ready": {"probe": "notify", "timeout": "200ms"}}
    install(runtime, attack, "attacker", args=words, service=service)
    with runtime.client() as client:
        client.start(CONTAINER)
        found = wait_state(client, ContainerState.FAILED, CONTAINER)
        assert found.reason == "not ready within 200ms"


def test_the_largest_durations(victim: Victim, attack: Path) -> None:
    """365 days in a manifest, and any number of ns in a request."""
    runtime = victim.runtime
    year = "365d"
    service = {
        **NOTIFY,
        **restart("always", delay=year, max_delay=year, reset_after=year, limit=1, interval=year),
        "ready": {"probe": "notify", "timeout": year},
        "watchdog": year,
        "stop": {"timeout": year},
    }
    service["restart"]["factor"] = 10
    words = f"ignore TERM ; notify-open - ; notify READY=1 EXTEND_TIMEOUT_USEC={U64_MAX} ; ready"
    install(runtime, attack, "attacker", args=f"{words} ; pause", service=service)
    with runtime.client() as client:
        client.start(CONTAINER)
        wait_ready(runtime, CONTAINER)
        wait_state(client, ContainerState.READY, CONTAINER)
        stop = {"stop": {"container": CONTAINER, "timeout": U64_MAX}}
        with raw(runtime) as stream, stream.makefile("rwb") as lines:
            connect = {"version": "0.9.2", "subscribe_notifications": False, "extended": True}
            for message in ({"connect": connect}, {"request": stop}):
                lines.write(json.dumps(message).encode() + b"\n")
                lines.flush()
                if "connect" in message:
                    lines.readline()
            wait_state(client, ContainerState.STOPPING, CONTAINER)
            client.kill(CONTAINER, 9)
            ok = {"container": CONTAINER, "killed": False}
            assert json.loads(lines.readline()) == {"response": {"stop": {"ok": ok}}}
        client.start(CONTAINER, arguments=("exit", "1"))
        found = wait_state(client, ContainerState.BACKOFF, CONTAINER)
        assert found.last == Exited(1)
        assert found.next is not None
        assert YEAR - TIMEOUT * 1e9 < found.next <= YEAR
        client.stop(CONTAINER)
    assert not re.search("Traceback|ERROR", runtime.text())
