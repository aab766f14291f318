"""The clock of the machine jumps: no duration changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from northstar.api import ContainerState
from northstar.api.response import TokenResult
from northstar.client import blocking
from northstar.model import Exited, Signalled
from tests.system.containers import exit_of, install, wait_ready
from tests.system.harness import IN_VM, PATIENCE, RuntimeProcess, wait_until
from tests.system.services.senders import NOTIFY
from tests.system.services.test_restart import restart, status, wait_state

ONLY = "the clock of this machine is everybody's"

MAY_SKIP = (ONLY,)

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.skipif(not IN_VM, reason=ONLY)]

DAY = 86400.0


@contextmanager
def jump(seconds: float) -> Iterator[None]:
    """Set the clock forward or back by some seconds, and later restore it."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - seconds)


@pytest.mark.parametrize("seconds", [400 * DAY, -400 * DAY, 20000 * DAY])
def test_tokens_uptime_and_timeouts(runtime: RuntimeProcess, payload: Path, seconds: float) -> None:
    container = install(runtime, payload, args="ignore TERM ; ready ; pause")
    with runtime.client(subscribe=True) as client:
        client.start(container)
        runtime.wait_log('"do": "ready"')
        token = client.token_create("extern", b"shared")
        begun = time.monotonic()
        with jump(seconds):
            # A token is valid for a minute, whatever the date.
            result = client.token_verify(token, "extern", b"shared")
            assert result is TokenResult.OK
            process = client.inspect(container).process
            assert process is not None
            assert 0 <= process.uptime_ns / 1e9 <= time.monotonic() - begun + 5 * PATIENCE
            client.kill(container, 9)
            exit_of(client, container)
            client.start(container, arguments=("exit", "3"))
            assert exit_of(client, container) == Exited(3)
            client.start(container)
            begun = time.monotonic()
            # The shutdown waits for two seconds, then kills.
            runtime.stop()
            assert 1.9 < time.monotonic() - begun < 5 * PATIENCE
    assert "Traceback" not in runtime.text()


PING = " ; ".join(["notify WATCHDOG=1", "sleep 0.2"] * 600)
SECTIONS = {
    "watched": {**NOTIFY, "watchdog": "20s"},
    "loading": {**NOTIFY, "ready": {"probe": "notify", "timeout": "30s"}},
    "stubborn": {"stop": {"timeout": "30s"}},
    "failing": restart("always", delay="30s", max_delay="30s", limit=100, interval="300s"),
}
WORDS = {
    "watched": f"notify-open - ; {PING}",
    "loading": "ready ; pause",
    "stubborn": "ignore TERM ; ready ; pause",
    "failing": "exit 1",
}
EXPECTED = {
    "watched": ContainerState.READY,
    "loading": ContainerState.RUNNING,
    "stubborn": ContainerState.STOPPING,
    "failing": ContainerState.BACKOFF,
}


def assert_unchanged(client: blocking.Client, begun: float) -> None:
    """Check that each container is in its state, for as long as really passed."""
    for name, state in EXPECTED.items():
        found = status(client, name)
        assert (found.state, found.run) == (state, 1)
        assert found.since / 1e9 <= time.monotonic() - begun
    left = status(client, "failing").next
    assert left is not None
    assert 30 - (time.monotonic() - begun) <= left / 1e9 <= 30


@pytest.mark.timeout(120 * PATIENCE)
def test_states_that_end_by_themselves(runtime: RuntimeProcess, payload: Path) -> None:
    """Years forth and back: watchdog, readiness, stop and back-off end at their times only."""
    with runtime.client() as client:
        begun = time.monotonic()
        for name, section in SECTIONS.items():
            client.start(install(runtime, payload, name, args=WORDS[name], service=section))
        for name in ("loading", "stubborn"):
            wait_ready(runtime, f"{name}:1.0.0")
        stopping = threading.Thread(target=stop, args=(runtime, "stubborn"))
        stopping.start()
        for name, state in EXPECTED.items():
            wait_state(client, state, name)
        for days in (400, -400, 20000, -10000, 3650):
            with jump(days * DAY):
                assert_unchanged(client, begun)
            assert_unchanged(client, begun)
        with jump(3650 * DAY):
            # Now they end, by the clock that does not jump.
            wait_until(lambda: status(client, "failing").run == 2, "it is restarted", 90)
            assert time.monotonic() - begun >= 30
            found = wait_state(client, ContainerState.FAILED, "loading")
            assert found.reason == "not ready within 30s"
            stopping.join()
            assert status(client, "stubborn").last == Signalled(9)
            assert status(client, "watched").state is ContainerState.READY
    assert "Traceback" not in runtime.text()


def stop(runtime: RuntimeProcess, container: str) -> None:
    """Stop a container with the timeout of its manifest."""
    with runtime.client(timeout=60 * PATIENCE) as client:
        assert client.stop(container).killed
