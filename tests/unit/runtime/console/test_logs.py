"""Requests for logs on the console: messages before the answer, and other requests meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from northstar.model import FULL, Permission
from tests.unit.runtime.console.harness import (
    CONNECT,
    EXTENDED,
    NO_LIMIT,
    A,
    run,
    serving,
    until,
)

PERMITTED = FULL | {Permission.LOGS}
OK = {"response": {"logs": {"ok": {"container": "a:1.0.0"}}}}
LOST = {"log": {"container": "a:1.0.0", "run": 1, "lost": 7}}


def request(**changes: Any) -> dict[str, Any]:
    defaults = {"follow": False, "since": None, "lines": 2, "cursor": None, "streams": ["stderr"]}
    return {"request": {"logs": {"container": "a:1.0.0", **defaults, **changes}}}


def line(number: int) -> Any:
    text = "x" * 1000
    members = {"container": "a:1.0.0", "run": 1, "time": 5, "stream": "stderr", "text": text}
    return {"log": {**members, "cursor": str(number)}}


def test_the_messages_come_before_the_answer() -> None:
    async def test() -> None:
        async with serving(PERMITTED) as bench:
            client = await bench.connected(EXTENDED)
            client.send(request(), {"request": "ident"})
            found = [await client.receive() for _ in range(5)]
            assert found[:4] == [line(0), line(1), LOST, OK]
            assert "ident" in found[4]["response"]

    run(test())


def test_refusals() -> None:
    async def test() -> None:
        async with serving(PERMITTED) as bench:
            client = await bench.connected(EXTENDED)
            answer = await client.ask(request(container="x:1.0.0")["request"])
            assert "invalid_container" in answer["logs"]["error"]["error"]
        async with serving(FULL) as bench:
            client = await bench.connected(EXTENDED)
            assert "permission_denied" in await client.ask(request()["request"])
            assert bench.runtime.calls == []

    run(test())


def test_a_plain_connection_does_not_know_it() -> None:
    async def test() -> None:
        async with serving(PERMITTED) as bench:
            client = await bench.connected(CONNECT)
            client.send(request())
            assert await client.ended() == b""
            assert bench.runtime.calls == []

    run(test())


def test_a_container_needs_the_permission() -> None:
    async def test() -> None:
        async with serving() as bench:
            for permissions, key in ((frozenset({Permission.LOGS}), "log"), (FULL, "response")):
                client = await bench.container(permissions, NO_LIMIT, A)
                await client.connect(EXTENDED)
                client.send(request())
                assert key in await client.receive()

    run(test())


def test_a_followed_log_ends_with_the_connection() -> None:
    """The other requests of the connection wait; those of others do not."""

    async def test() -> None:
        async with serving(PERMITTED) as bench:
            client, other = [await bench.connected(EXTENDED) for _ in range(2)]
            client.send(request(follow=True, lines=0), {"request": "ident"})
            assert await client.receive() == LOST
            assert "ident" in await other.ask("ident")
            client.writer.write_eof()
            assert await client.receive() == OK
            assert "ident" in (await client.receive())["response"]
            gone = await bench.connected(EXTENDED)
            gone.send(request(follow=True, lines=0))
            assert await gone.receive() == LOST
            await gone.close()
            await until(lambda: len(bench.console._connections) == 1)

    run(test())


def test_a_client_that_does_not_read_makes_the_request_wait() -> None:
    async def test() -> None:
        async with serving(PERMITTED, tcp=True) as bench:
            client = await bench.connected(EXTENDED)
            client.stop_reading()
            client.send(request(lines=10_000))
            await until(lambda: bench.runtime.calls)
            other = await bench.connected(EXTENDED)
            connections = tuple(bench.console._connections)
            await until(lambda: any(not one._writable for one in connections))
            for _ in range(10):
                await other.ask("ident")
            await asyncio.sleep(0.01)
            # The bytes of some lines, and not of ten thousand.
            assert max(one.unread() for one in connections) < 100_000
            client.read_on()
            found = [await client.receive() for _ in range(10_002)]
            assert found[-3:] == [line(9999), LOST, OK]

    run(test())
