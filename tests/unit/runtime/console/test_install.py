"""Packages on a connection: exactly their bytes are read, whatever fails."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import pytest

from northstar.api import RefusedError, error
from northstar.model import FULL, Permission
from northstar.runtime.config import ConsoleOptions
from northstar.runtime.console.memory import PACKAGE as BUFFER
from tests.unit.runtime.console.harness import (
    NO_LIMIT,
    A,
    Bench,
    Client,
    run,
    serving,
    until,
)

OK = {"response": {"install": {"ok": {"container": "a:1.0.0"}}}}
IDENT = {"response": {"ident": "extern:0.0.0"}}


def install(size: int, repository: str = "mem") -> dict[str, Any]:
    return {"request": {"install": {"repository": repository, "size": size}}}


def failed(wire: Any) -> dict[str, Any]:
    return {"response": {"install": {"error": {"error": wire}}}}


async def in_step(client: Client) -> None:
    """Check that the next request is decoded and answered."""
    client.send({"request": "ident"})
    assert await client.receive() == IDENT


@pytest.mark.parametrize("size", [0, 1, 4096, 3 * BUFFER + 1])
@pytest.mark.parametrize("tcp", [True, False])
def test_a_package_arrives_as_it_was_sent(size: int, tcp: bool) -> None:
    async def test() -> None:
        async with serving(tcp=tcp) as bench:
            client = await bench.connected()
            data = os.urandom(size)
            client.send(install(size), data, {"request": "ident"})
            assert await client.receive() == OK
            assert await client.receive() == IDENT
            (package,) = bench.runtime.packages
            assert package.data == data
            assert (package.committed, package.aborted) == (True, 0)
            assert bench.runtime.calls == [("install", "mem", size)]

    run(test())


def test_a_package_in_pieces_that_look_like_messages() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            piece = b'{"request":"shutdown"}\n'
            client.send(install(3 * len(piece)))
            for _ in range(3):
                client.send(piece)
                await client.writer.drain()
                await asyncio.sleep(0.002)
            assert await client.receive() == OK
            assert bench.runtime.packages[0].data == 3 * piece
            assert "shutdown" not in bench.runtime.calls

    run(test())


@pytest.mark.parametrize("step", ["begin_install", "write", "commit"])
@pytest.mark.parametrize(
    ("raised", "wire"),
    [
        (RefusedError(error.InstallDuplicate(A)), {"install_duplicate": {"container": "a:1.0.0"}}),
        (
            OSError(28, "No space left on device"),
            {"unexpected": {"error": "No space left on device"}},
        ),
        (TimeoutError("late"), {"unexpected": {"error": "late"}}),
        (KeyError("x"), {"unexpected": {"error": "KeyError: 'x'"}}),
    ],
)
def test_a_failure_is_answered_after_all_bytes(step: str, raised: Exception, wire: Any) -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.failures[step] = raised
            client = await bench.connected()
            size = 2 * BUFFER
            client.send(install(size), bytes(size - 1))
            # Not before the last byte, even if it failed early.
            await until(lambda: _taken(bench) == size - 1)
            if step == "write":
                # The space of the stored bytes is freed without waiting for the remaining ones.
                await until(lambda: bench.runtime.packages[0].aborted)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await client.receive()
            client.send(b"\0")
            assert await client.receive() == failed(wire)
            await in_step(client)
            for package in bench.runtime.packages:
                assert not package.committed
                assert package.aborted

    run(test())


def _taken(bench: Bench) -> int:
    """Return the bytes of the package that the connection has taken from the socket."""
    (server,) = bench.console._connections
    package = server._package
    return 0 if package is None else 2 * BUFFER - package.missing


def test_an_unknown_repository() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            client.send(install(10, "nope"), bytes(10))
            assert await client.receive() == failed({"invalid_repository": {"repository": "nope"}})
            await in_step(client)

    run(test())


def test_without_the_permission_the_connection_stays_usable() -> None:
    async def test() -> None:
        async with serving(FULL - {Permission.INSTALL}) as bench:
            client = await bench.connected()
            client.send(install(BUFFER), b'{"request":"list"}\n'.ljust(BUFFER, b"\n"))
            request = install(BUFFER)["request"]
            assert await client.receive() == {"response": {"permission_denied": request}}
            await in_step(client)
            assert bench.runtime.calls == []

    run(test())


@pytest.mark.parametrize("allowed", [True, False])
def test_a_package_that_is_too_large(allowed: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        options = ConsoleOptions(max_npk_install_size=100)
        permissions = FULL if allowed else FULL - {Permission.INSTALL}
        async with serving(permissions, options) as bench:
            client = await bench.connected()
            client.send(install(100), bytes(100))
            assert "response" in await client.receive()
            bench.runtime.calls.clear()
            client.send(install(101))
            assert await client.ended() == b""
            assert bench.runtime.calls == []

    run(test())
    (record,) = caplog.records
    assert "a package of 101 bytes is larger than 100" in record.getMessage()


def test_a_stream_that_stops(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(options=ConsoleOptions(npk_stream_timeout=0.05)) as bench:
            client, other = await bench.connected(), await bench.connected()
            client.send(install(100), bytes(99))
            assert await client.ended() == b""
            (package,) = bench.runtime.packages
            assert (package.committed, package.aborted > 0) == (False, True)
            await in_step(other)

    run(test())
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "no byte of the package received for 0.05 s" in caplog.records[0].getMessage()


def test_only_the_pause_between_chunks_counts() -> None:
    async def test() -> None:
        async with serving(options=ConsoleOptions(npk_stream_timeout=0.5)) as bench:
            client = await bench.connected()
            client.send(install(12))
            for _ in range(12):
                client.send(b"x")
                await asyncio.sleep(0.05)
            assert await client.receive() == OK
            # Storing may take long.
            bench.runtime.gates["write"] = asyncio.Event()
            client.send(install(1), b"x")
            await until(lambda: bench.runtime.busy)
            await asyncio.sleep(0.55)
            bench.runtime.gates["write"].set()
            assert await client.receive() == OK

    run(test())


def test_the_end_of_the_stream_is_a_failed_install(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            client.send(install(100), bytes(99))
            client.writer.write_eof()
            text = "the stream ended before the package was complete"
            assert await client.receive() == failed({"unexpected": {"error": text}})
            assert await client.ended() == b""
            (package,) = bench.runtime.packages
            assert (package.committed, package.aborted > 0) == (False, True)

    run(test())
    assert [r.getMessage() for r in caplog.records] == [
        "Remote(unix://unnamed): the stream ended within a package"
    ]


def test_the_end_of_the_stream_right_behind_a_package() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            client.send(install(100), bytes(100))
            client.writer.write_eof()
            assert await client.receive() == OK
            assert await client.ended() == b""

    run(test())


@pytest.mark.parametrize("step", ["begin_install", "write", None])
def test_a_lost_connection_leaves_nothing(step: str | None) -> None:
    async def test() -> None:
        async with serving() as bench:
            if step:
                bench.runtime.gates[step] = asyncio.Event()
            client = await bench.connected()
            client.send(install(100), bytes(50))
            await until(lambda: bench.runtime.busy if step else bench.runtime.packages)
            client.writer.transport.abort()
            # The console sees only the end of the stream: the client may still read the answer.
            await until(lambda: all(c._lines.ended for c in bench.console._connections))
            if step:
                bench.runtime.gates[step].set()
            await until(lambda: bench.runtime.packages and bench.runtime.packages[0].aborted)
            assert not bench.runtime.packages[0].committed
            await until(lambda: not bench.console._connections)

    run(test())


def test_closing_the_console_aborts_an_install() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            client.send(install(100), bytes(50))
            await until(lambda: bench.runtime.packages)
            await bench.console.close()
            assert bench.runtime.packages[0].aborted
            assert await client.ended() == b""

    run(test())


def test_closing_the_console_aborts_a_blocked_install() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["write"] = asyncio.Event()
            client = await bench.connected()
            client.send(install(100), bytes(50))
            await until(lambda: bench.runtime.busy)
            await bench.console.close(grace_period=0.05)
            assert bench.runtime.packages[0].aborted

    run(test())


def test_a_slow_store_slows_its_own_stream_only() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["write"] = asyncio.Event()
            client, other = await bench.connected(), await bench.connected()
            size = 16 * BUFFER
            client.send(install(size), bytes(size))
            await until(lambda: bench.runtime.busy)
            await until(lambda: any(not c._reading for c in bench.console._connections))
            server = next(c for c in bench.console._connections if not c._reading)
            assert server._package is not None
            assert len(server._package._data) < BUFFER + 2**18
            await in_step(other)
            other.send(install(5), b"12345")
            await until(lambda: bench.runtime.busy == 2)
            bench.runtime.gates["write"].set()
            assert await other.receive() == OK
            assert await client.receive() == OK
            assert max(len(package.data) for package in bench.runtime.packages) == size

    run(test())


def test_an_install_behind_other_requests_waits_its_turn() -> None:
    async def test() -> None:
        async with serving(options=NO_LIMIT) as bench:
            bench.runtime.gates["kill"] = asyncio.Event()
            client = await bench.connected()
            kill = {"request": {"kill": {"container": "a:1.0.0", "signal": 1}}}
            data = os.urandom(BUFFER)
            client.send(kill, install(BUFFER), data, {"request": "ident"}, install(3), b"abc")
            await until(lambda: bench.runtime.busy)
            await asyncio.sleep(0.01)
            assert bench.runtime.packages == []
            bench.runtime.gates["kill"].set()
            assert "kill" in (await client.receive())["response"]
            assert await client.receive() == OK
            assert await client.receive() == IDENT
            assert await client.receive() == OK
            assert [package.data for package in bench.runtime.packages] == [data, b"abc"]

    run(test())
