"""SIGKILL at any moment: the next start succeeds, and only interrupted operations are undecided.

Moments are system calls: between two of them nothing observable happens. `make test` tries a few;
all of them, and many random instants, are tried by

    .venv/bin/pytest -m long tests/system/faults/test_killed.py

A failure prints the seed of the random instants; NORTHSTAR_FAULT_SEED sets it.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system import host
from tests.system.containers import install
from tests.system.faults.intercept import Interceptor
from tests.system.faults.killing import CALLS, PHASES, Extent, Moment, Victim
from tests.system.harness import enter, wait_until

pytestmark = pytest.mark.root

INSTANTS = 300
"""Number of random instants, for each of the two namespaces."""


@pytest.fixture(params=["own namespace", "the host's"])
def victim(
    request: pytest.FixtureRequest,
    make_runtime: Callable[..., Any],
    tmp_path: Path,
    payload: Path,
) -> Iterator[Victim]:
    """A runtime in a mount namespace that ends with it, or in one that stays."""
    with Interceptor(CALLS) as interceptor:
        if request.param == "own namespace":
            yield Victim(interceptor, make_runtime, tmp_path, payload)
            return
        with mount_namespace() as holder:
            yield Victim(interceptor, make_runtime, tmp_path, payload, holder)


@contextmanager
def mount_namespace() -> Iterator[int]:
    """Make a mount namespace that stays, and yield the pid of a process in it."""
    command = ["unshare", "--mount", "--propagation", "shared", "sleep", "infinity"]
    with subprocess.Popen(command) as holder:
        try:
            wait_until(lambda: host.command(holder.pid).startswith("sleep"), "it is there")
            yield holder.pid
        finally:
            holder.kill()


def every(extents: dict[str, Extent]) -> list[Moment]:
    """Return all moments, including one after the last call of each phase."""
    return [
        Moment(phase, call) for phase in PHASES for call in range(1, extents[phase.name].calls + 2)
    ]


@pytest.mark.timeout(240)
def test_killed_at_a_few_moments(victim: Victim) -> None:
    """Always the same moments, of all operations."""
    moments = every(victim.measure())
    assert len(moments) > 100
    chosen = random.Random(0).sample(moments, 6)
    assert victim.live(chosen) >= 4


def test_mounts_go_from_the_namespace_they_are_in(
    make_runtime: Callable[..., Any], payload: Path
) -> None:
    """The killed runtime shared this namespace; an unmount in that of the next has no effect."""
    with mount_namespace() as holder:
        wrap = ("/usr/bin/env", *enter(holder))
        runtime = make_runtime(start=False, arguments=("-d",), wrap=wrap)
        before = host.mounts(holder)
        runtime.start()
        container = install(runtime, payload, args="pause")
        with runtime.client() as client:
            client.start(container)
        runtime.kill()
        assert len(host.mounts(holder)) == len(before) + 1
        runtime.arguments = ()
        runtime.start()
        runtime.wait_log(rf"Removed what an earlier run left: 1 mount \({container}\)")
        assert host.mounts(holder) == before
        runtime.stop()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_before_every_call(victim: Victim) -> None:
    moments = every(victim.measure())
    met = victim.live(moments)
    print(f"{met} of {len(moments)} moments were met")
    assert met >= 0.9 * len(moments) - len(PHASES)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_any_instant(victim: Victim) -> None:
    seed = int(os.environ.get("NORTHSTAR_FAULT_SEED", random.randrange(2**32)))
    print(f"NORTHSTAR_FAULT_SEED={seed}")
    generator = random.Random(seed)
    extents = victim.measure()
    moments = []
    for _ in range(INSTANTS):
        phase = generator.choice(PHASES)
        seconds = max(1e-6, generator.random() * extents[phase.name].seconds)
        moments.append(Moment(phase, seconds=seconds))
    met = victim.live(moments)
    print(f"{met} of {INSTANTS} instants were met")
    # At the others the operation had already ended: it took longer when it was measured.
    assert met >= INSTANTS // 4
