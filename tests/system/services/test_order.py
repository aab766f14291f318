"""`service.after` on a real runtime: the order of boot and shutdown, crash loops and cycles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState, error
from tests.system.containers import install, refused
from tests.system.harness import RuntimeProcess, wait_until
from tests.system.services.test_restart import restart, status, wait_state

pytestmark = pytest.mark.root

READY = {"notify": "/run/notify", "ready": {"probe": "notify"}}
LATER = "sleep 0.1 ; notify-open - ; notify READY=1 ; pause"


def places(runtime: RuntimeProcess, *patterns: str) -> list[int]:
    """Return where in the log these patterns are."""
    text = runtime.text()
    found = [re.search(pattern, text) for pattern in patterns]
    assert all(found), (patterns, text)
    return [match.start() for match in found if match is not None]


def test_the_order_of_five_over_boot_and_shutdown(stored: Any, boot: Any) -> None:
    for number in range(5):
        after = [f"app{number - 1}"] if number else []
        stored(f"app{number}", LATER, service={**READY, "after": after})
    runtime = boot()
    # The runtime is up before the last one is ready.
    names = [f"app{number}:1\\.0\\.0" for number in range(5)]
    runtime.wait_log(rf"State of {names[4]}: ready")
    order = [rf"State of {name}: {state}" for name in names for state in ("starting", "ready")]
    found = places(runtime, *order)
    assert found == sorted(found)
    assert "Cannot" not in runtime.text()
    runtime.stop()
    order = [rf"{what} {name}" for name in names[::-1] for what in ("Killing", "Process")]
    found = places(runtime, *order)
    assert found == sorted(found)


def test_a_crash_of_the_middle_one(stored: Any, boot: Any) -> None:
    """It restarts; the one that comes after it, and was started already, is not affected."""
    for number in range(3):
        after = [f"app{number - 1}"] if number else []
        stored(f"app{number}", LATER, service={**READY, **restart(), "after": after})
    runtime = boot()
    runtime.wait_log(r"State of app2:1\.0\.0: ready")
    with runtime.client() as client:
        client.kill("app1", 1)
        wait_until(lambda: status(client, "app1").restarts == 1, "app1 is restarted")
        wait_state(client, ContainerState.READY, "app1")
        assert status(client, "app2").run == 1


def test_a_crash_loop_of_the_first_one(stored: Any, boot: Any) -> None:
    stored("first", "sleep 0.1 ; exit 1", service={**READY, **restart()})
    stored("second", LATER, service={"after": ["first"], **READY})
    runtime = boot()
    runtime.wait_log(r"State of second:1\.0\.0: ready")
    order = (
        r"State of second:1\.0\.0: waiting \(for first\)",
        r"Process first:1\.0\.0 exited",
        r"second:1\.0\.0 does not wait for first: its state is backoff",
        r"State of second:1\.0\.0: starting",
    )
    found = places(runtime, *order)
    assert found == sorted(found)


def test_up_and_running_does_not_wait(stored: Any, boot: Any) -> None:
    stored("first", "pause", service=READY)
    stored("second", service={"after": ["first"]})
    runtime = boot()
    with runtime.client() as client:
        assert status(client, "first").state is ContainerState.RUNNING
        assert status(client, "second").state is ContainerState.WAITING
        # A request does not wait either.
        client.start("second")
        assert status(client, "second").state is ContainerState.READY


def test_a_stop_of_a_waiting_one(stored: Any, boot: Any) -> None:
    stored("first", "pause", service=READY)
    stored("second", service={"after": ["first"]})
    with boot().client() as client:
        client.stop("second")
        assert status(client, "second").state is ContainerState.INSTALLED
        client.stop("first")
        assert status(client, "second").run == 0


def test_an_install_that_closes_a_cycle(boot: Any, payload: Path) -> None:
    runtime = boot()
    install(runtime, payload, "one", service={"after": ["two"]})
    install(runtime, payload, "two", service={"after": ["three"]})
    reason = "service.after makes a cycle: three, one, two, three"
    failure = refused(lambda: install(runtime, payload, "three", service={"after": ["one"]}))
    assert failure == error.Unexpected(f"three:1.0.0 cannot be installed: {reason}")
    install(runtime, payload, "three")


def test_a_cycle_of_files(stored: Any, boot: Any) -> None:
    stored("one", LATER, service={"after": ["two"], **READY})
    stored("two", LATER, service={"after": ["one"], **READY})
    stored("three", service={"after": ["one"]})
    runtime = boot()
    for name, cycle in (("one", "one, two, one"), ("two", "two, one, two")):
        sentence = "starts without waiting: service.after makes a cycle"
        runtime.wait_log(rf"WARN.* {name}:1\.0\.0 {sentence}: {cycle}")
        runtime.wait_log(rf"State of {name}:1\.0\.0: ready")
    runtime.wait_log(r"State of three:1\.0\.0: ready")
    runtime.stop()


def test_the_newest_of_two_versions_is_started_at_boot(stored: Any, boot: Any) -> None:
    stored("app", version="1.0.0", autostart="critical")
    stored("app", version="2.0.0")
    runtime = boot()
    runtime.wait_log(r"WARN.* app:1\.0\.0 is not started: app:2\.0\.0 is newer")
    with runtime.client() as client:
        assert status(client, "app:2.0.0").state is ContainerState.READY
        assert client.inspect("app:1.0.0").mounted is False
