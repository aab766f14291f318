"""Features of the asyncio client only: concurrent requests, and cancelling one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from northstar.client import Client, DisconnectedError
from northstar.model import Container, NorthstarError
from tests.unit.client.peer import TIMEOUT, Peer, Wire

A = Container.parse("a:1.0.0")
IDENT = {"response": {"ident": "a:1.0.0"}}
PACKAGE = bytes(2**22)


def test_requests_of_several_tasks_are_answered_in_their_order(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        asked = [wire.line()["request"]["inspect"]["container"] for _ in range(20)]
        for container in asked:
            data = {"manifest": {"name": container}, "repository": "", "mounted": False}
            wire.send({"response": {"inspect": {"ok": {"container": container, "data": data}}}})
        wire.expect_end()

    async def main(url: str) -> None:
        async with await Client.connect(url) as client:
            containers = [f"a{i}:1.0.0" for i in range(20)]
            answers = await asyncio.gather(*map(client.inspect, containers))
            assert [data.manifest["name"] for data in answers] == containers

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_the_answer_to_a_cancelled_request_is_dropped(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        assert wire.line() == {"request": "list"}
        assert wire.line() == {"request": "ident"}
        wire.send({"response": {"list": []}}, IDENT)
        wire.expect_end()

    async def main(url: str) -> None:
        async with await Client.connect(url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.list()
            assert await client.ident() == A

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_a_cancelled_connect_leaves_no_socket(tmp_path: Path) -> None:
    greeted = threading.Event()

    def script(wire: Wire) -> None:
        wire.line()
        greeted.set()
        wire.expect_end()

    async def main(url: str) -> None:
        connecting = asyncio.create_task(Client.connect(url))
        assert await asyncio.to_thread(greeted.wait, TIMEOUT)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


class Stalling:
    """A package whose source blocks after its beginning."""

    begun = False

    async def read(self, size: int) -> bytes:
        if self.begun:
            await asyncio.Event().wait()
        self.begun = True
        return b"beginning"[:size]


def test_an_install_that_is_cancelled_half_way_closes_the_connection(tmp_path: Path) -> None:
    begun = threading.Event()

    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        assert wire.read(9) == b"beginning"
        begun.set()
        wire.expect_end()

    async def main(url: str) -> None:
        async with await Client.connect(url) as client:
            installing = asyncio.create_task(client.install(Stalling(), "r", size=100))
            waiting = asyncio.create_task(client.ident())
            assert await asyncio.to_thread(begun.wait, TIMEOUT)
            installing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await installing
            with pytest.raises(DisconnectedError, match="cancelled or failed"):
                await waiting

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_an_install_that_is_cancelled_after_its_last_byte_does_not(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        assert wire.read(5) == b"12345"
        assert wire.line() == {"request": "ident"}
        wire.send({"response": {"install": {"ok": {"container": "b:1.0.0"}}}}, IDENT)
        wire.expect_end()

    async def main(url: str) -> None:
        async with await Client.connect(url) as client:
            sent = asyncio.Event()
            installing = asyncio.create_task(
                client.install(b"12345", "r", progress=lambda *_: sent.set())
            )
            await sent.wait()
            await asyncio.sleep(0)
            installing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await installing
            assert await client.ident() == A

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_nothing_is_sent_between_the_bytes_of_a_package(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        assert "install" in wire.line()["request"]
        assert wire.read(len(PACKAGE)) == PACKAGE
        wire.send({"response": {"install": {"ok": {"container": "b:1.0.0"}}}})
        wire.answer("ident", IDENT)
        wire.expect_end()

    async def main(url: str) -> None:
        async with await Client.connect(url) as client:
            installed, own = await asyncio.gather(client.install(PACKAGE, "r"), client.ident())
            assert (str(installed), own) == ("b:1.0.0", A)

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_a_package_from_a_stream_reader(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        assert wire.read(5) == b"12345"
        wire.send({"response": {"install": {"ok": {"container": "a:1.0.0"}}}})
        wire.expect_end()

    async def main(url: str) -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(b"123")
        async with await Client.connect(url) as client:
            installing = asyncio.create_task(client.install(stream, "r", size=5))
            stream.feed_data(b"45")
            assert await installing == A

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_notifications_while_requests_wait(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(subscribe=True)
        assert wire.line() == {"request": "ident"}
        wire.send({"notification": {"started": "a:1.0.0"}})
        # The next request is made only after the notification was read.
        assert wire.line() == {"request": "list"}
        wire.send(IDENT, {"response": {"list": []}}, {"notification": "shutdown"})

    async def main(url: str) -> None:
        async with await Client.connect(url, subscribe=True) as client:
            own = asyncio.create_task(client.ident())
            notifications: AsyncIterator[Any] = client.notifications()
            await anext(notifications)
            assert await client.list() == ()
            assert await own == A
            assert [type(n).__name__ async for n in notifications] == ["Shutdown"]

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_close_ends_waiting_requests(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        wire.expect_end()

    async def main(url: str) -> None:
        client = await Client.connect(url)
        waiting = asyncio.create_task(client.ident())
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        with pytest.raises(NorthstarError, match="closed by this client"):
            await waiting

    with Peer(tmp_path, script) as peer:
        asyncio.run(main(peer.url))


def test_the_blocking_client_does_not_import_asyncio() -> None:
    code = "import sys, northstar.client.blocking as b; sys.exit('asyncio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
