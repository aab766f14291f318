"""Isolation of clients: an abusive client does not slow others.

tests/unit/runtime/console tests the answer to each kind of abuse; here each is repeated at full
speed against a real runtime with other clients.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar import client
from northstar.api import error
from northstar.model import Container, Exited, Signalled
from tests.system import nuisances
from tests.system.containers import exit_of, install, refused
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, manifest, pack, wait_until
from tests.unit.client.peer import CLIENTS

pytestmark = pytest.mark.root

ROUNDS = 2
STARTS = 6


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    """A runtime whose console permits only some requests."""
    permitted = str(list(nuisances.PERMITTED))
    runtime = RuntimeProcess(tmp_path_factory.mktemp("busy"), permissions=permitted)
    try:
        yield runtime.start()
        runtime.stop()
    finally:
        runtime.close()


@pytest.fixture(scope="module")
def package(busy: RuntimeProcess, payload: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app that is installed in this runtime."""
    directory = tmp_path_factory.mktemp("package")
    made = pack(directory, manifest("app", args=["pause"]), {"payload": payload})
    with busy.client() as someone:
        someone.install(made, "mem")
    return made


@pytest.mark.parametrize("name", nuisances.NUISANCES)
def test_a_nuisance_does_not_slow_other_clients(
    busy: RuntimeProcess, package: Path, name: str
) -> None:
    """The limit is generous, for a busy machine; bench/clients.py measures exactly."""
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


def test_many_connections_at_once_are_served(busy: RuntimeProcess) -> None:
    """More connections at once than the backlog of the socket."""

    async def one() -> None:
        async with await client.Client.connect(busy.url, timeout=30 * PATIENCE) as guest:
            assert str(await guest.ident()) == "extern:0.0.0"

    async def crowd() -> None:
        await asyncio.gather(*(one() for _ in range(400)))

    asyncio.run(crowd())


@pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])
def test_the_exit_of_a_container_is_waited_for(
    make_runtime: Callable[..., RuntimeProcess], payload: Path, kind: Any
) -> None:
    runtime = make_runtime()
    install(runtime, payload, "short", args="exit 7")
    install(runtime, payload, "long", args="pause")
    with kind.connect(runtime.url, subscribe=True) as one:
        # It may exit before its start is answered; each run may show another order.
        for _ in range(10):
            one.start("short")
            assert one.wait("short", TIMEOUT) == Exited(7)
        assert one.wait("short", 0) == Exited(7)
        one.start("long")
        with pytest.raises(client.StillRunningError):
            one.wait("long", 0.01)
        with runtime.client() as other:
            assert other.inspect("long").process is not None
            other.kill("long", 9)
        assert one.wait("long", TIMEOUT) == Signalled(9)
    with kind.connect(runtime.url, subscribe=True) as late:
        assert late.wait("short") == Exited(7)
    with kind.connect(runtime.url, subscribe=True, extended=False) as late:
        assert refused(lambda: late.wait("short")) == error.StopContainerNotStarted(
            Container.parse("short:1.0.0")
        )


@pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])
def test_a_name_is_enough_for_the_only_version(
    make_runtime: Callable[..., RuntimeProcess], payload: Path, kind: Any
) -> None:
    runtime = make_runtime()
    install(runtime, payload, "app", args="pause")
    install(runtime, payload, "two", version="1.0.0", args="pause")
    install(runtime, payload, "two", version="2.0.0", args="pause")
    with kind.connect(runtime.url) as one:
        one.mount("app")
        one.umount("app")
        one.start("app", "/payload", ["exit", "3"])
        wait_until(lambda: one.inspect("app").process is None, "the container has exited")
        one.start("app")
        one.stop("app")
        with pytest.raises(client.NameLookupError, match=r"two:1\.0\.0, two:2\.0\.0"):
            one.start("two")
        one.uninstall("two:1.0.0")
        one.start("two")
        one.kill("two", 9)
        with pytest.raises(client.NameLookupError, match="no container none"):
            one.inspect("none")


def test_waiting_for_an_exit_allows_other_requests(
    make_runtime: Callable[..., RuntimeProcess], payload: Path
) -> None:
    runtime = make_runtime()
    for number in range(3):
        install(runtime, payload, f"app{number}", args=f"exit {number}")

    async def run() -> None:
        async with await client.Client.connect(runtime.url, subscribe=True) as one:

            async def whole(name: str) -> object:
                await one.start(name)
                return await one.wait(name, TIMEOUT)

            *statuses, _ = await asyncio.gather(*(whole(f"app{n}") for n in range(3)), one.list())
            assert statuses == [Exited(0), Exited(1), Exited(2)]

    asyncio.run(run())
