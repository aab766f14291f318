"""Many crash loops at a time delay no other start. A measurement: it needs a quiet machine."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState
from northstar.client import blocking
from northstar.model import Signalled
from tests.system.containers import exit_of, install
from tests.system.harness import RuntimeProcess
from tests.system.services.test_restart import restart, wait_state

pytestmark = [pytest.mark.root, pytest.mark.long]

LOOPS = 50


def start_time(client: blocking.Client, app: str) -> float:
    """Return the median of the seconds that a start takes."""
    times = []
    for _ in range(31):
        begun = time.monotonic()
        client.start(app)
        times.append(time.monotonic() - begun)
        client.kill(app, 9)
        assert exit_of(client, app) == Signalled(9)
        time.sleep(0.05)
    return statistics.median(times)


@pytest.mark.timeout(300)
def test_a_start_beside_fifty_crash_loops(stored: Any, boot: Any, payload: Path) -> None:
    service = restart("always", delay="20s", max_delay="20s", factor=1)
    for number in range(LOOPS):
        stored(f"loop{number}", "exit 1", service=service)
    runtime: RuntimeProcess = boot()
    app = install(runtime, payload, "other", args="pause")
    with runtime.client() as client:
        for number in range(LOOPS):
            wait_state(client, ContainerState.BACKOFF, f"loop{number}")
    with runtime.client(subscribe=True) as client:
        beside = start_time(client, app)
        for number in range(LOOPS):
            client.stop(f"loop{number}")
        alone = start_time(client, app)
    assert beside <= 1.2 * alone, (beside, alone)
