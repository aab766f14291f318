"""The request `update`: its package, its answer at the end, and connections that end before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from northstar.api import RefusedError, error
from northstar.model import FULL, Permission
from tests.unit.runtime.console.harness import EXTENDED, run, serving, until

PERMITTED = FULL | {Permission.UPDATE}
OK = {"response": {"update": {"ok": {"container": "b:2.0.0", "previous": "a:1.0.0"}}}}
IDENT = {"response": {"ident": "extern:0.0.0"}}


def update(size: int, repository: str = "mem") -> dict[str, Any]:
    return {"request": {"update": {"repository": repository, "size": size}}}


def failed(wire: Any) -> dict[str, Any]:
    return {"response": {"update": {"error": {"error": wire}}}}


def test_the_answer_comes_at_the_end() -> None:
    async def test() -> None:
        async with serving(PERMITTED) as bench:
            client = await bench.connected(EXTENDED)
            gate = bench.runtime.gates["commit"] = asyncio.Event()
            client.send(update(3), b"abc", {"request": "ident"})
            await until(lambda: bench.runtime.busy == 1)
            gate.set()
            assert await client.receive() == OK
            assert await client.receive() == IDENT
            (writer,) = bench.runtime.updates
            assert (writer.data, writer.aborted) == (b"abc", 0)
            assert bench.runtime.calls == [("update", "mem", 3)]

    run(test())


@pytest.mark.parametrize("step", ["begin_update", "write", "commit"])
def test_a_failure_is_answered_after_all_bytes(step: str) -> None:
    async def test() -> None:
        async with serving(PERMITTED) as bench:
            bench.runtime.failures[step] = RefusedError(error.Unexpected("rolled back"))
            client = await bench.connected(EXTENDED)
            client.send(update(5), b"abcde", {"request": "ident"})
            assert await client.receive() == failed({"unexpected": {"error": "rolled back"}})
            assert await client.receive() == IDENT
            assert all(writer.aborted for writer in bench.runtime.updates)

    run(test())


def test_the_end_of_the_stream_is_a_failed_update() -> None:
    async def test() -> None:
        async with serving(PERMITTED) as bench:
            client = await bench.connected(EXTENDED)
            client.send(update(100), bytes(99))
            client.writer.write_eof()
            text = "the stream ended before the package was complete"
            assert await client.receive() == failed({"unexpected": {"error": text}})
            assert await client.ended() == b""
            assert bench.runtime.updates[0].aborted

    run(test())


def test_without_the_permission_the_package_is_dropped() -> None:
    async def test() -> None:
        async with serving(FULL) as bench:
            client = await bench.connected(EXTENDED)
            client.send(update(3), b"abc", {"request": "ident"})
            denied = await client.receive()
            assert denied == {"response": {"permission_denied": update(3)["request"]}}
            assert await client.receive() == IDENT
            assert bench.runtime.calls == []

    run(test())


def test_a_plain_connection_has_no_such_request() -> None:
    async def test() -> None:
        async with serving(PERMITTED) as bench:
            client = await bench.connected()
            client.send(update(3), b"abc")
            assert await client.ended() == b""

    run(test())
