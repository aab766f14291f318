"""Stopping a container with both clients and with nstar, on a real runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api, client
from northstar.api import error
from northstar.client import Stopped
from northstar.model import Container, Exited, Signalled
from tests.system.containers import install, refused, wait_ready
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True


@pytest.mark.parametrize("subscribe", [True, False])
def test_stop(runtime: RuntimeProcess, payload: Path, subscribe: bool) -> None:
    polite = install(runtime, payload, "polite", args="pause")
    stubborn = install(runtime, payload, "stubborn", args="ignore TERM ; ready ; pause")
    with runtime.client(subscribe=subscribe) as someone:
        someone.start(polite)
        someone.start(stubborn)
        wait_ready(runtime, stubborn)
        done = someone.stop(polite)
        assert done == Stopped(False, Signalled(15) if subscribe else None)
        assert someone.inspect(polite).process is None
        done = someone.stop(stubborn, 0.1)
        assert done == Stopped(True, Signalled(9) if subscribe else None)
        # It is down already.
        assert someone.stop(polite) == Stopped(False, None)


@pytest.mark.parametrize("subscribe", [True, False])
def test_stop_by_signals(runtime: RuntimeProcess, payload: Path, subscribe: bool) -> None:
    """As on a runtime without the request."""
    polite = install(runtime, payload, "polite", args="pause")
    stubborn = install(runtime, payload, "stubborn", args="ignore TERM ; ready ; pause")
    with runtime.client(subscribe=subscribe, extended=False) as someone:
        someone.start(polite)
        someone.start(stubborn)
        wait_ready(runtime, stubborn)
        done = someone.stop(polite)
        assert done == Stopped(False, Signalled(15) if subscribe else None)
        assert someone.inspect(polite).process is None
        done = someone.stop(stubborn, 0.1)
        assert done == Stopped(True, Signalled(9) if subscribe else None)
        assert refused(lambda: someone.stop(polite)) == error.StopContainerNotStarted(
            Container.parse(polite)
        )


def test_stop_beside_other_requests(runtime: RuntimeProcess, payload: Path) -> None:
    """While the asyncio client waits for an exit, it can make requests and read notifications."""
    containers = [install(runtime, payload, f"app{n}", args="pause") for n in range(3)]
    end = install(runtime, payload, "end", args="sleep 0.3 ; exit 7")

    async def test() -> None:
        async with await client.Client.connect(runtime.url, subscribe=True) as one:
            for container in (*containers, end):
                await one.start(container)
            *stopped, _ = await asyncio.gather(*(one.stop(c) for c in containers), one.list())
            assert stopped == [Stopped(False, Signalled(15))] * 3
            exits = {}
            async for message in one.notifications():
                if isinstance(message, api.notification.Exit):
                    exits[str(message.container)] = message.status
                if len(exits) == 4:
                    break
            assert isinstance(exits[end], Exited)
            assert exits[end] == Exited(7)

    asyncio.run(test())


@pytest.mark.parametrize("permissions", ['"full"', '["kill", "list", "inspect"]'])
def test_nstar_stop(
    make_runtime: Callable[..., Any], payload: Path, tmp_path: Path, permissions: str
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name, words in (("polite", ["pause"]), ("stubborn", ["ignore", "TERM", ";", "pause"])):
        text = manifest(name, args=words, autostart="relaxed")
        pack(tmp_path, text, {"payload": payload}).rename(store / name)
    runtime = make_runtime(
        repositories={"fs": f'type = {{ fs = {{ dir = "{store}" }} }}'}, permissions=permissions
    )
    assert runtime.nstar("stop", "polite").stdout == "stopped polite:1.0.0\n"
    wait_until(lambda: "Container polite:1.0.0 exited" in runtime.text(), "the exit is logged")
    assert runtime.nstar("stop", "--timeout", "200ms", "stubborn").stdout == (
        "stopped stubborn:1.0.0, by SIGKILL: it did not end within 0.2 s of its stop signal\n"
    )
    assert runtime.nstar("stop", "polite").stdout == "stopped polite:1.0.0\n"
