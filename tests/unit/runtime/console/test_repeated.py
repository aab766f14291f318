"""Requests of a client that waits for each answer: a shorter path with the same result."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from northstar.model import FULL, Container, Permission
from northstar.runtime.config import ConsoleOptions
from tests.unit.runtime.console.harness import A, B, Bench, run, serving

IDENT = {"response": {"ident": "extern:0.0.0"}}
LIST = {"response": {"list": ["a:1.0.0", "b:2.0.0"]}}


def _inspected(container: Container) -> dict[str, Any]:
    manifest = {"name": str(container.name)}
    data = {"manifest": manifest, "repository": "mem", "mounted": True, "process": None}
    return {"ok": {"container": str(container), "data": data}}


def _unknown(container: str) -> dict[str, Any]:
    return {
        "error": {"container": container, "error": {"invalid_container": {"container": container}}}
    }


ANSWERS: list[tuple[Any, Any]] = [
    ("ident", IDENT["response"]),
    ("list", LIST["response"]),
    ("repositories", {"repositories": ["mem", "disk"]}),
    ({"inspect": {"container": "a:1.0.0"}}, {"inspect": _inspected(A)}),
    ({"inspect": {"container": "b:2.0.0"}}, {"inspect": _inspected(B)}),
    ({"inspect": {"container": "c:1.0.0"}}, {"inspect": _unknown("c:1.0.0")}),
    ({"mount": {"containers": ["a:1.0.0"]}}, {"mount": [{"ok": {"container": "a:1.0.0"}}]}),
]


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=8),
)
def test_answers_do_not_depend_on_how_requests_are_cut(
    asked: list[tuple[Any, Any]], cuts: list[tuple[int, bool]]
) -> None:
    stream = b"".join(json.dumps({"request": request}).encode() + b"\n" for request, _ in asked)

    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            await client.ask("ident")
            begin = received = 0
            for end, waits in [*sorted(cuts), (len(stream), True)]:
                client.send(stream[begin:end])
                begin = max(begin, min(end, len(stream)))
                # Its next bytes arrive alone.
                while waits and received < stream[:begin].count(b"\n"):
                    assert (await client.receive())["response"] == asked[received][1]
                    received += 1
            assert received == len(asked)

    run(test())


def test_the_rate_holds_for_a_client_that_waits_for_each_answer() -> None:
    async def test() -> None:
        async with serving(options=ConsoleOptions(max_requests_per_sec=5)) as bench:
            client = await bench.connected()
            begun = time.monotonic()
            for _ in range(4):
                assert await client.ask("ident") == IDENT["response"]
            # The connect has counted.
            for _ in range(3):
                assert await client.ask("ident") == IDENT["response"]
            assert time.monotonic() - begun > 0.9

    run(test())


@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False)])
def test_a_repeated_line_may_not_be_too_long(
    size: int, fits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        short = ConsoleOptions(max_requests_per_sec=10**9, max_request_size=100)
        async with serving() as bench:
            line = b'{"request":"ident"}'.ljust(size) + b"\n"
            other = await bench.connected()
            client = await (await bench.container(FULL, short)).connect()
            for _ in range(3):
                other.send(line)
                assert await other.receive() == IDENT
            await client.ask("ident")
            client.send(line)
            if fits:
                assert await client.receive() == {"response": {"ident": "a:1.0.0"}}
            else:
                assert await client.ended() == b""

    run(test())
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert [message.endswith("100 bytes, closing the connection") for message in warnings] == [
        True
    ] * (not fits)


async def _container(bench: Bench, denied: Permission) -> Any:
    options = ConsoleOptions(max_requests_per_sec=10**9)
    return await (await bench.container(FULL - {denied}, options)).connect()


def test_permissions_are_those_of_each_connection() -> None:
    async def test() -> None:
        async with serving() as bench:
            client, lacking = await bench.connected(), await _container(bench, Permission.LIST)
            for _ in range(3):
                assert await client.ask("list") == LIST["response"]
                assert await lacking.ask("list") == {"permission_denied": "list"}
                assert await client.ask("ident") == IDENT["response"]
                assert await lacking.ask("ident") == {"ident": "a:1.0.0"}

    run(test())


def test_the_answer_changes_with_the_containers() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            for containers in ((A,), (A, B), (), (B,), (B, A)):
                bench.runtime.containers = containers
                for _ in range(2):
                    assert await client.ask("list") == {"list": [*map(str, containers)]}

    run(test())


def test_an_internal_error_in_a_repeated_request(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving() as bench:
            client, other = await bench.connected(), await bench.connected()
            assert await client.ask("list") == LIST["response"]
            bench.runtime.failures = {"list": ZeroDivisionError()}
            client.send({"request": "list"})
            assert await client.ended() == b""
            assert await other.ask("ident") == IDENT["response"]

    run(test())
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_a_client_that_does_not_read_is_not_answered() -> None:
    """A client that sends each request alone, but reads no answer, waits as any other one."""

    async def test() -> None:
        async with serving(tcp=True) as bench:
            client = await bench.connected()
            await client.ask("list")
            client.stop_reading()
            (server,) = bench.console._connections
            while server._writable:
                client.send({"request": "list"})
                await asyncio.sleep(0)
            answered = len(bench.runtime.calls)
            for _ in range(20):
                client.send({"request": "list"})
                await asyncio.sleep(0.001)
            assert len(bench.runtime.calls) == answered
            client.read_on()
            assert await client.receive() == LIST

    run(test())


def test_pipelined_inspects_do_not_delay_other_clients() -> None:
    async def test() -> None:
        async with serving() as bench:
            greedy, modest = await bench.connected(), await bench.connected()
            await modest.ask("ident")
            line = b'{"request":{"inspect":{"container":"a:1.0.0"}}}\n'
            greedy.writer.write(line * 300)
            modest.send({"request": "ident"})
            assert await modest.receive() == IDENT
            # Each takes as long as many other requests, so each waits for its turn.
            assert len(bench.runtime.calls) < 20
            for _ in range(300):
                assert (await greedy.receive())["response"] == {"inspect": _inspected(A)}

    run(test())
