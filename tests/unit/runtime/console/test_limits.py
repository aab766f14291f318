"""Every limit of a connection, and that other connections are not affected by it."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any

import pytest

from northstar.api import notification
from northstar.model import FULL, Permission
from northstar.runtime.config import ConsoleOptions
from northstar.runtime.console import connection, lines
from northstar.runtime.console.connection import Connection
from northstar.runtime.console.memory import ALLOWANCE
from tests.unit.runtime.console.harness import (
    ACK,
    CONNECT,
    NO_LIMIT,
    SUBSCRIBE,
    A,
    Bench,
    Client,
    run,
    serving,
    until,
)

SMALL = ConsoleOptions(max_requests_per_sec=10**9, max_request_size=100)
IDENT = {"response": {"ident": "extern:0.0.0"}}
REQUEST = b'{"request":"ident"}'


def padded(size: int, end: bytes = b"\n") -> bytes:
    """Return an ident request of `size` bytes, without its end."""
    return REQUEST + b" " * (size - len(REQUEST)) + end


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        (padded(100), True),
        (padded(99, b"\r\n"), True),
        (padded(101), False),
        (padded(100, b"\r\n"), False),
        (padded(100, b""), True),
        (padded(101, b""), False),
    ],
)
def test_size_of_a_line(line: bytes, fits: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(options=SMALL) as bench:
            client = await bench.connected()
            client.send(line)
            client.writer.write_eof()
            if fits:
                assert await client.receive() == IDENT
            assert await client.ended() == b""

    run(test())
    warnings = [r.getMessage() for r in caplog.records]
    expected = "Remote(unix://unnamed): a line is longer than 100 bytes, closing the connection"
    assert warnings == ([] if fits else [expected])


def test_an_endless_line_is_cut_off_before_it_ends() -> None:
    async def test() -> None:
        async with serving(options=SMALL) as bench:
            client = await bench.client()
            # Exactly one byte above the limit, and no end of the stream.
            client.send(b"x" * 101)
            assert await client.ended() == b""

    run(test())


def test_requests_before_a_long_line_are_answered() -> None:
    async def test() -> None:
        async with serving(options=SMALL) as bench:
            bench.runtime.gates["kill"] = asyncio.Event()
            client = await bench.connected()
            client.send({"request": {"kill": {"container": "a:1.0.0", "signal": 1}}}, b"x" * 200)
            await until(lambda: bench.runtime.busy)
            bench.runtime.gates["kill"].set()
            assert "kill" in (await client.receive())["response"]
            assert await client.ended() == b""

    run(test())


def test_requests_per_second() -> None:
    async def test() -> None:
        async with serving(options=ConsoleOptions(max_requests_per_sec=5)) as bench:
            client, other = await bench.connected(), await bench.connected()
            begun = time.monotonic()
            client.send(*[{"request": "ident"}] * 7)
            # The connect has counted: four pass at once, the others wait, none is lost.
            for _ in range(4):
                assert await client.receive() == IDENT
            assert await other.ask("ident") == IDENT["response"]
            for _ in range(3):
                assert await client.receive() == IDENT
            assert time.monotonic() - begun > 0.9

    run(test())


def _holds(server: Connection, size: int) -> bool:
    return len(server._lines.buffer) == size


def test_data_received_during_a_wait_starts_no_second_one() -> None:
    async def test() -> None:
        async with serving(options=ConsoleOptions(max_requests_per_sec=1)) as bench:
            client = await bench.connected()
            (server,) = bench.console._connections
            client.send({"request": "ident"})
            await until(lambda: server._lines._wait is not None)
            turn = server._lines._wait
            size = len(server._lines.buffer)
            for count in range(2, 5):
                client.send({"request": "ident"})
                await until(functools.partial(_holds, server, count * size))
                assert server._lines._wait is turn

    run(test())


def test_each_connection_has_separate_rate_limits() -> None:
    async def test() -> None:
        options = ConsoleOptions(max_requests_per_sec=2)
        async with serving(options=options) as bench:
            clients = [await bench.connected() for _ in range(5)]
            begun = time.monotonic()
            for client in clients:
                assert await client.ask("ident") == IDENT["response"]
            # Ten messages at two per second would take more than four seconds.
            assert time.monotonic() - begun < 3

    run(test())


def test_containers_have_separate_limits() -> None:
    async def test() -> None:
        async with serving(options=NO_LIMIT) as bench:
            client = await (await bench.container(FULL, SMALL)).connect()
            client.send(padded(101))
            assert await client.ended() == b""
            extern = await bench.connected()
            extern.send(padded(101))
            assert await extern.receive() == IDENT

    run(test())


async def fill(bench: Bench, client: Client, line: bytes) -> tuple[Connection, int]:
    """Send lines until the runtime reads no more; return its side, and the bytes that were sent."""
    (server,) = bench.console._connections
    client.writer.transport.set_write_buffer_limits(high=0)
    sent = 0
    while True:
        client.writer.write(line * 100)
        sent += 100 * len(line)
        try:
            async with asyncio.timeout(0.02):
                await client.writer.drain()
        except TimeoutError:
            if not server._reading and server._lines._wait is None:
                return server, sent


def test_requests_of_a_client_that_does_not_read_are_not_processed() -> None:
    async def test() -> None:
        async with serving(tcp=True) as bench:
            client = await bench.client()
            client.stop_reading()
            client.send(CONNECT)
            server, _ = await fill(bench, client, b'{"request":"list"}\n')
            worked_off = len(bench.runtime.calls)
            await asyncio.sleep(0.05)
            assert len(bench.runtime.calls) == worked_off
            assert server._transport.get_write_buffer_size() < 2 * connection.WRITE_BUFFER
            assert len(server._lines.buffer) < ALLOWANCE + 2**18
            # Other clients are not affected; the waiting answers come when the client reads again.
            other = await bench.connected()
            assert await other.ask("ident") == IDENT["response"]
            client.read_on()
            await until(lambda: len(bench.runtime.calls) > worked_off)

    run(test())


def test_requests_that_wait_are_bounded() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["mount"] = asyncio.Event()
            client = await bench.connected()
            client.send({"request": {"mount": {"containers": ["a:1.0.0"]}}})
            server, sent = await fill(bench, client, REQUEST + b"\n")
            assert len(server._lines.buffer) < ALLOWANCE + 2**18
            bench.runtime.gates["mount"].set()
            assert "mount" in (await client.receive())["response"]
            for _ in range(sent // (len(REQUEST) + 1)):
                assert await client.receive() == IDENT

    run(test())


def test_a_line_longer_than_the_read_ahead_arrives_whole() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            for size in (ALLOWANCE + 1, 2**20):
                client.send(padded(size), REQUEST + b"\n")
                assert [await client.receive() for _ in range(2)] == [IDENT, IDENT]
            client.send(padded(2**20 + 1))
            assert await client.ended() == b""

    run(test())


def test_long_lines_wait_when_they_exceed_the_byte_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BYTES_RATE", 1e6)
    monkeypatch.setattr(lines, "BYTES_BURST", 2e5)

    async def test() -> None:
        async with serving() as bench:
            greedy, modest = await bench.connected(), await bench.connected()
            loop = asyncio.get_running_loop()
            begun = loop.time()
            greedy.send(*[padded(100_000)] * 6)
            modest.send(REQUEST + b"\n")
            # Each connection is counted separately.
            assert await modest.receive() == IDENT
            assert [await greedy.receive() for _ in range(6)] == [IDENT] * 6
            # 600 kB less the burst; the overdraft of the last request causes no wait.
            assert loop.time() - begun > 0.29

    run(test())


def test_many_pipelined_requests_do_not_delay_other_clients() -> None:
    async def test() -> None:
        async with serving() as bench:
            greedy, modest = await bench.connected(), await bench.connected()
            greedy.writer.write(b'{"request":"list"}\n' * 3000)
            modest.send({"request": "ident"})
            assert await modest.receive() == IDENT
            # It was answered in between, not after the last one of the sequence.
            assert len(bench.runtime.calls) < 300
            for _ in range(3000):
                assert await greedy.receive() == {"response": {"list": ["a:1.0.0", "b:2.0.0"]}}

    run(test())


def test_a_subscriber_that_does_not_read_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(tcp=True) as bench:
            slow = await bench.client()
            await slow.connect(SUBSCRIBE)
            slow.stop_reading()
            quick = await bench.connected(SUBSCRIBE)
            published = 0
            while len(bench.console._connections) == 2:
                bench.hub.publish(notification.Started(A))
                published += 1
                assert await quick.receive() == {"notification": {"started": "a:1.0.0"}}
            assert await quick.ask("ident") == IDENT["response"]
            slow.read_on()
            got = (await slow.ended()).splitlines()
            assert len(got) < published

    run(test())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Remote(tcp://127.0.0.1:")
    assert "more than 4 notifications behind, closing the connection" in record.getMessage()


def test_a_subscriber_that_reads_late_gets_all_queued_notifications() -> None:
    async def test() -> None:
        async with serving(tcp=True) as bench:
            late = await bench.client()
            await late.connect(SUBSCRIBE)
            late.stop_reading()
            (server,) = bench.console._connections
            count = 0
            while server._writable:
                bench.hub.publish(notification.Started(A))
                count += 1
                await asyncio.sleep(0)
            for _ in range(bench.hub.buffer_size):
                bench.hub.publish(notification.Install(A))
            late.read_on()
            for _ in range(count):
                assert await late.receive() == {"notification": {"started": "a:1.0.0"}}
            for _ in range(bench.hub.buffer_size):
                assert await late.receive() == {"notification": {"install": "a:1.0.0"}}

    run(test())


def test_a_closed_connection_that_is_not_read_does_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with serving(tcp=True) as bench:
            client = await bench.client()
            await client.connect()
            client.stop_reading()
            server, _ = await fill(bench, client, b'{"request":"list"}\n')
            server.close()
            await until(lambda: not bench.console._connections)

    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.05)
    run(test())


def test_a_client_can_read_last_answers_after_the_loop_was_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with serving(tcp=True) as bench:
            client = await bench.client()
            await client.connect()
            client.stop_reading()
            (server,) = bench.console._connections
            client.send({"request": {"mount": {"containers": ["c:1.0.0"] * 5000}}})
            await until(server.unread)
            server.close()
            block_loop(2 * connection.CLOSE_TIMEOUT)
            client.read_on()
            assert len((await client.receive())["response"]["mount"]) == 5000
            assert await client.ended() == b""

    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.4)
    run(test())


def block_loop(seconds: float) -> None:
    """Block the event loop, as if the process was stopped."""
    time.sleep(seconds)


def test_permissions_are_checked_before_limits_of_the_operation() -> None:
    async def test() -> None:
        async with serving(FULL - {Permission.KILL}) as bench:
            client = await bench.client()
            client.send(CONNECT, {"request": {"kill": {"container": "a:1.0.0", "signal": 99}}})
            assert await client.receive() == ACK
            answer: Any = await client.receive()
            assert list(answer["response"]) == ["permission_denied"]

    run(test())
