"""Containers that crash again and again cost their neighbours little, and the log too.

`python -m bench.services` measures how long starts take beside them. Here the bound is looser,
since the tests share the machine with other work. Without the common pace the ratio was 15.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState
from northstar.api.response import StatusOk
from northstar.client import blocking
from northstar.core import pacing
from tests.system.containers import exit_of, install
from tests.system.harness import PATIENCE, RuntimeProcess, wait_until
from tests.system.services.test_restart import restart, status, wait_state

pytestmark = pytest.mark.root

APPS = 50
STARTS = 20
ROUNDS = 3
RATIO_MAX = 1.5

QUIET = ("pause",)
CRASH = ("exit", "1")
LOOP = restart("always", delay="10ms", max_delay="10ms")
INFO = {"NORTHSTAR_LOG": "runtime=info,container=info"}
LINES_MAX = 12
"""Most lines of the log for one run of a container, from its start to the next one."""


def runs(client: blocking.Client, apps: list[str]) -> int:
    """Return the number of runs of all these containers."""
    return sum(r.status.run for r in client.status(*apps) if isinstance(r, StatusOk))


def starts(runtime: RuntimeProcess, app: str) -> float:
    """Return the median duration of a start, in seconds."""
    seen = []
    with runtime.client(subscribe=True) as client:
        for _ in range(STARTS):
            begun = time.monotonic()
            client.start(app)
            seen.append(time.monotonic() - begun)
            client.kill(app, 9)
            exit_of(client, app)
    return statistics.median(seen)


@pytest.fixture
def crowd(make_runtime: Callable[..., Any], payload: Path) -> tuple[RuntimeProcess, list[str]]:
    """A runtime with 50 containers that are restarted after 10 ms, and one that is not."""
    runtime: RuntimeProcess = make_runtime(environment=INFO)
    fields: dict[str, Any] = {"args": "pause", "service": LOOP}
    apps = [install(runtime, payload, f"app{number}", **fields) for number in range(APPS)]
    install(runtime, payload, "other", args="pause", service={})
    return runtime, apps


def phase(
    runtime: RuntimeProcess, client: blocking.Client, apps: list[str], arguments: tuple[str, ...]
) -> tuple[float, float]:
    """Measure starts beside these containers; return their median, and the restarts per second."""
    for app in apps:
        client.start(app, arguments=arguments)
    if arguments == CRASH:
        least = runs(client, apps) + pacing.BURST + 5
        wait_until(lambda: runs(client, apps) >= least, "the burst is used up")
    before, begun = runs(client, apps), time.monotonic()
    median = starts(runtime, "other:1.0.0")
    rate = (runs(client, apps) - before) / (time.monotonic() - begun)
    for app in apps:
        client.stop(app, 0.0)
    return median, rate


@pytest.mark.timeout(180 * PATIENCE)
def test_fifty_crash_loops_do_not_delay_another_start(
    crowd: tuple[RuntimeProcess, list[str]],
) -> None:
    runtime, apps = crowd
    ratios = []
    with runtime.client() as client:
        for _ in range(ROUNDS):
            quiet, _ = phase(runtime, client, apps, QUIET)
            crashing, rate = phase(runtime, client, apps, CRASH)
            assert 0 < rate <= 2 * pacing.RESTARTS_PER_SECOND
            ratios.append(crashing / quiet)
            if ratios[-1] < RATIO_MAX:
                break
        else:
            pytest.fail(f"ratios {ratios}")
    runtime.stop()


def test_a_restart_beside_crash_loops_comes_after_its_turn(
    crowd: tuple[RuntimeProcess, list[str]],
) -> None:
    """The turns are in the order of the ends of the delays: nobody waits for ever."""
    runtime, apps = crowd
    with runtime.client() as client:
        for app in apps[1:]:
            client.start(app, arguments=CRASH)
        least = runs(client, apps) + pacing.BURST + 5
        wait_until(lambda: runs(client, apps) >= least, "the burst is used up")
        client.start(apps[0])
        client.kill(apps[0], 1)
        begun = time.monotonic()
        wait_until(lambda: status(client, apps[0]).run == 2, "it is restarted")
        turns = APPS / pacing.RESTARTS_PER_SECOND
        assert time.monotonic() - begun < turns + 6 * PATIENCE
        assert wait_state(client, ContainerState.READY, apps[0]).restarts == 1


@pytest.mark.parametrize("delay", ["1ns", "10ms"])
def test_the_log_of_a_crash_loop_is_bounded(
    make_runtime: Callable[..., Any], payload: Path, delay: str
) -> None:
    """It has some lines for each run, whatever the container prints; and the runs are paced."""
    runtime: RuntimeProcess = make_runtime(environment=INFO)
    service = restart("always", delay=delay, max_delay=delay)
    words = "flood 2000 ; exit 1"
    app = install(runtime, payload, args=words, service=service)
    with runtime.client() as client:
        begun = time.monotonic()
        client.start(app)
        wait_until(lambda: status(client).run >= pacing.BURST + 20, "the burst is used up")
        client.stop(app)
        took = time.monotonic() - begun
        count = status(client).run
    assert count <= 1 + pacing.BURST + took * pacing.RESTARTS_PER_SECOND + 1
    said = runtime.text()
    assert len(said.splitlines()) <= LINES_MAX * (count + 2)
    assert max(map(len, said.splitlines())) < 300
    runtime.stop()
