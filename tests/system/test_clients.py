"""Clients among themselves: what one does costs no other anything.

What each kind of misbehaviour is answered with is tested in tests/unit/runtime/console;
here it is done at full speed to a real runtime that has other things to do.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar import client
from northstar.model import Signalled
from tests.system import nuisances
from tests.system.containers import exit_of
from tests.system.harness import PATIENCE, RuntimeProcess, manifest, pack

pytestmark = pytest.mark.root

ROUNDS = 2
STARTS = 6


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    """A runtime on whose console some requests are not permitted."""
    permitted = str(list(nuisances.PERMITTED))
    runtime = RuntimeProcess(tmp_path_factory.mktemp("busy"), permissions=permitted)
    try:
        yield runtime.start()
        runtime.stop()
    finally:
        runtime.close()


@pytest.fixture(scope="module")
def package(busy: RuntimeProcess, payload: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app that is installed there."""
    directory = tmp_path_factory.mktemp("package")
    made = pack(directory, manifest("app", args=["pause"]), {"payload": payload})
    with busy.client() as someone:
        someone.install(made, "mem")
    return made


@pytest.mark.parametrize("name", nuisances.NUISANCES)
def test_a_nuisance_does_not_hold_up_others(busy: RuntimeProcess, package: Path, name: str) -> None:
    """Loose: a machine has other things to do. bench/clients.py measures."""
    quiet: list[float] = []
    loud: list[float] = []
    with busy.client(subscribe=True) as innocent:
        innocent.start("app:1.0.0")
        innocent.kill("app:1.0.0", 9)
        exit_of(innocent, "app:1.0.0")
        before = busy.snapshot()
        for _ in range(ROUNDS):
            for seen in (quiet, loud):
                with nuisances.started(name, busy.url, package, idle=seen is quiet):
                    for _ in range(STARTS):
                        begun = time.perf_counter()
                        innocent.start("app:1.0.0")
                        seen.append(time.perf_counter() - begun)
                        innocent.kill("app:1.0.0", 9)
                        assert exit_of(innocent, "app:1.0.0") == Signalled(9)
        busy.assert_no_leak(before, 15 * PATIENCE)
    assert "Traceback" not in busy.text()
    medians = statistics.median(quiet), statistics.median(loud)
    assert medians[1] <= 3 * medians[0] + 0.02 * PATIENCE, medians


def test_a_crowd_is_served(busy: RuntimeProcess) -> None:
    """More at once than there is room for at the door."""

    async def one() -> None:
        async with await client.Client.connect(busy.url, timeout=30 * PATIENCE) as guest:
            assert str(await guest.ident()) == "extern:0.0.0"

    async def crowd() -> None:
        await asyncio.gather(*(one() for _ in range(400)))

    asyncio.run(crowd())
