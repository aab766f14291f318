"""Connections that are opened and closed at once do not delay other connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from northstar.runtime.config import TcpAddress, UnixAddress
from northstar.runtime.console import acceptor, console
from tests.unit.runtime.console.harness import CONNECT, Bench, run, serving, until

MANY = 1700
CONNECT_LINE = b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n'
IDENT = {"ident": "extern:0.0.0"}
RESET = struct.pack("ii", 1, 0)
"""struct linger, socket(7): close(2) sends a reset."""


def opened(address: TcpAddress | UnixAddress) -> socket.socket:
    if isinstance(address, UnixAddress):
        stream = socket.socket(socket.AF_UNIX)
        # With a full backlog this blocks, without using processor time.
        stream.connect(address.path)
        return stream
    return socket.create_connection((address.host, address.port))


def closed(stream: socket.socket) -> None:
    stream.close()


def closed_with_a_byte(stream: socket.socket) -> None:
    stream.send(b"{")
    stream.close()


def reset(stream: socket.socket) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    stream.close()


def reset_with_a_byte(stream: socket.socket) -> None:
    stream.send(b"{")
    reset(stream)


def shut_down(stream: socket.socket) -> None:
    stream.shutdown(socket.SHUT_WR)
    stream.close()


def closed_with_a_connect(stream: socket.socket) -> None:
    stream.send(CONNECT_LINE)
    stream.close()


KINDS = [
    closed,
    closed_with_a_byte,
    reset,
    reset_with_a_byte,
    shut_down,
    closed_with_a_connect,
]


async def flooded(bench: Bench, close: Callable[[socket.socket], None]) -> None:
    """Open and close many connections, faster than they are accepted."""

    def flood() -> None:
        for _ in range(MANY):
            close(opened(bench.address))

    await asyncio.to_thread(flood)


@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize("close", KINDS)
def test_closed_connections_delay_no_other_client(
    tcp: bool, close: Callable[[socket.socket], None]
) -> None:
    async def test() -> None:
        async with serving(tcp=tcp) as bench:
            loop = asyncio.get_running_loop()
            await flooded(bench, close)
            begun = loop.time()
            client = await bench.connected()
            assert await client.ask("ident") == IDENT
            # At 100 connections per second they took 14 s.
            assert loop.time() - begun < 3.0

    run(test())


@asynccontextmanager
async def flooding(
    bench: Bench, close: Callable[[socket.socket], None]
) -> AsyncIterator[list[int]]:
    """Open, close and count connections continuously, in a thread."""
    ended = threading.Event()
    count = [0]

    def flood() -> None:
        while not ended.is_set():
            close(opened(bench.address))
            count[0] += 1

    # With a full backlog connect(2) blocks until the event loop accepts: join in a thread too.
    thread = asyncio.create_task(asyncio.to_thread(flood))
    try:
        yield count
    finally:
        ended.set()
        await thread


@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize("close", [closed, closed_with_a_byte, reset])
def test_a_flood_costs_a_bounded_part_of_the_processor(
    tcp: bool, close: Callable[[socket.socket], None]
) -> None:
    async def test() -> None:
        async with serving(tcp=tcp) as bench:
            loop = asyncio.get_running_loop()
            async with flooding(bench, close) as count:
                # Wait until the burst is used up, then measure the rate.
                await asyncio.sleep(1.0)
                processor, begun, first = time.thread_time(), loop.time(), count[0]
                await asyncio.sleep(2.0)
                used = (time.thread_time() - processor) / (loop.time() - begun)
                assert count[0] > first + 100
                # A tenth for the checks, and the time of the event loop.
                assert used < 0.35
                stream = await asyncio.to_thread(opened, bench.address)
                stream.setblocking(False)
                await loop.sock_sendall(stream, CONNECT_LINE)
                assert await loop.sock_recv(stream, 100) == b'{"connect_ack":null}\n'
                stream.close()

    run(test())


def test_a_flood_of_connections_that_stay_is_slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate applies to open connections; a client between them waits like them, not longer."""
    monkeypatch.setattr(acceptor, "RATE", 50.0)
    monkeypatch.setattr(acceptor, "BURST", 5.0)

    async def test() -> None:
        async with serving() as bench:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            for _ in range(30):
                await bench.client()
            client = await bench.client()
            # Closed connections before it cost nothing, even if they were accepted.
            for other in bench.clients[:20]:
                other.writer.close()
            await client.connect()
            assert loop.time() - begun < 0.5
            assert len(bench.console._connections) <= 20

    run(test())


def test_a_client_that_has_finished_sending_is_answered() -> None:
    """Its connection is half-closed: it can still read."""

    async def test() -> None:
        for tcp in (True, False):
            async with serving(tcp=tcp) as bench:
                # This happens before the accept: the event loop does not run in between.
                stream = opened(bench.address)
                stream.sendall(CONNECT_LINE + b'{"request":"ident"}\n')
                stream.shutdown(socket.SHUT_WR)
                stream.setblocking(False)
                loop = asyncio.get_running_loop()
                said = b""
                while data := await loop.sock_recv(stream, 1000):
                    said += data
                assert said == b'{"connect_ack":null}\n{"response":{"ident":"extern:0.0.0"}}\n'
                stream.close()

    run(test())


def test_requests_sent_before_the_client_closed_are_executed() -> None:
    async def test() -> None:
        async with serving() as bench:
            stream = opened(bench.address)
            kill = b'{"request":{"kill":{"container":"a:1.0.0","signal":9}}}\n'
            stream.sendall(CONNECT_LINE + kill)
            stream.close()
            await until(lambda: bench.runtime.calls)
            assert bench.runtime.calls == [("kill", "a:1.0.0", 9)]

    run(test())


def test_open_connections_are_served_before_finished_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "RATE", 5.0)
    monkeypatch.setattr(acceptor, "BURST", 1.0)

    async def test() -> None:
        async with serving() as bench:
            loop = asyncio.get_running_loop()
            for _ in range(50):
                closed_with_a_connect(opened(bench.address))
            begun = loop.time()
            client = await bench.connected()
            assert await client.ask("ident") == IDENT
            assert loop.time() - begun < 2.0

    run(test())


def test_the_log_of_a_flood_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "RATE", 1.0)
    monkeypatch.setattr(acceptor, "BURST", 5.0)

    async def test() -> None:
        async with serving() as bench:
            for _ in range(100):
                closed_with_a_byte(opened(bench.address))
            await bench.connected()

    caplog.set_level(logging.INFO)
    run(test())
    assert 1 <= len([r for r in caplog.records if "closing the connection" in r.message]) < 10


def test_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "CONNECTIONS", 3)

    async def test() -> None:
        async with serving() as bench:
            clients = [await bench.connected() for _ in range(3)]
            late = await bench.client()
            late.send(CONNECT)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await late.receive()
            assert await clients[0].ask("ident") == IDENT
            await clients[1].close()
            assert await late.receive() == {"connect_ack": None}

    run(test())
