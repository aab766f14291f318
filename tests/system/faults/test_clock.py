"""The clock of the machine jumps: no duration changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from northstar.api.response import TokenResult
from northstar.model import Exited
from tests.system.containers import exit_of, install
from tests.system.harness import IN_VM, PATIENCE, RuntimeProcess

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
