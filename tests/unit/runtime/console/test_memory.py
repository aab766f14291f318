"""The memory that all connections of one side share: its limits, and what waits or is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from northstar.model import FULL
from northstar.runtime.config import ConsoleOptions
from northstar.runtime.console import memory
from northstar.runtime.console.connection import Connection
from northstar.runtime.console.memory import (
    ALLOWANCE,
    CONNECT_SIZE,
    EXECUTION,
    REQUEST,
    Output,
    Packages,
    Reservations,
)
from tests.unit.runtime.console.harness import (
    CONNECT,
    Bench,
    Client,
    run,
    serving,
    until,
)

IDENT = {"response": {"ident": "extern:0.0.0"}}
LONG = 3 * ALLOWANCE
LINE_MAX = 4 * ALLOWANCE
OPTIONS = ConsoleOptions(max_requests_per_sec=10**9, max_request_size=LINE_MAX)


def ident(size: int) -> bytes:
    return b'{"request":"ident"}'.ljust(size) + b"\n"


def install(size: int) -> bytes:
    return b'{"request":{"install":{"repository":"mem","size":%d}}}\n' % size


# ---- The three pools without connections


class Line:
    """A holder of reserved memory that records the callbacks."""

    def __init__(self, lines: Reservations, size: int, owner: str = "") -> None:
        self.granted = self.late = False
        self.reservation = lines.reserve(size, owner, self._granted, self._late)

    def _granted(self) -> None:
        self.granted = True

    def _late(self) -> None:
        self.late = True
        self.reservation.release()


def test_long_lines_are_granted_in_their_order_and_never_beyond_the_limit() -> None:
    async def test() -> None:
        lines = Reservations(100)
        first, second, third, fourth = (Line(lines, 40) for _ in range(4))
        small = Line(lines, 10)
        await asyncio.sleep(0)
        assert [x.granted for x in (first, second, third, fourth, small)] == [True, True] + [
            False
        ] * 3
        # A released reservation is removed, and the next one takes its place.
        third.reservation.release()
        first.reservation.release()
        await asyncio.sleep(0)
        assert fourth.granted
        assert small.granted
        for line in (second, fourth, small):
            line.reservation.release()
        assert lines._used == 0

    run(test())


def test_a_line_above_the_limit_is_granted_alone() -> None:
    async def test() -> None:
        lines = Reservations(100)
        first, second = Line(lines, 500), Line(lines, 500)
        await asyncio.sleep(0)
        assert (first.granted, second.granted) == (True, False)
        first.reservation.release()
        await asyncio.sleep(0)
        assert second.granted
        second.reservation.release()

    run(test())


def test_a_late_peer_is_closed_only_when_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LINE_PAUSE", 0.02)

    async def test() -> None:
        lines = Reservations(100)
        late, busy = Line(lines, 50), Line(lines, 50)
        busy.reservation.complete()
        await until(lambda: late.reservation.late)
        assert not late.late
        waiting = Line(lines, 50)
        assert late.late
        await asyncio.sleep(0)
        assert waiting.granted
        # A request that takes long is not its client's fault.
        last = Line(lines, 50)
        await until(lambda: waiting.late)
        await asyncio.sleep(0)
        assert last.granted
        assert not busy.late

    run(test())


def test_a_peer_that_sends_single_bytes_is_late_eventually(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LINE_PAUSE", 0.05)
    monkeypatch.setattr(memory, "LINE_TIMEOUT", 0.3)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        lines = Reservations(100)
        begun = loop.time()
        slow = Line(lines, 100)
        waiting = Line(lines, 100)
        while not slow.late:
            slow.reservation.progress()
            await asyncio.sleep(0.005)
        assert 0.3 <= loop.time() - begun < 5.0
        await asyncio.sleep(0)
        assert waiting.granted

    run(test())


def test_the_owner_with_the_fewest_is_next() -> None:
    async def test() -> None:
        lines = Reservations(100)
        greedy = [Line(lines, 50, "greedy") for _ in range(4)]
        modest = Line(lines, 50, "modest")
        await asyncio.sleep(0)
        greedy[0].reservation.release()
        await asyncio.sleep(0)
        assert [x.granted for x in (*greedy, modest)] == [True, True, False, False, True]
        for line in (*greedy[1:], modest):
            line.reservation.release()
        assert not lines._owners

    run(test())


def test_packages_have_equal_shares_and_each_has_its_allowance() -> None:
    packages = Packages(8 * ALLOWANCE)
    packages.begin()
    assert packages.room(0) == 8 * ALLOWANCE
    for _ in range(3):
        packages.begin()
    assert packages.room(0) == 2 * ALLOWANCE
    assert packages.room(2 * ALLOWANCE) == 0
    # When others have used all, the allowance is still available.
    packages.add(8 * ALLOWANCE)
    assert packages.room(0) == ALLOWANCE
    assert packages.room(ALLOWANCE) == 0
    packages.add(-8 * ALLOWANCE)
    assert packages.room(0) == 2 * ALLOWANCE


class Reader:
    def __init__(self, output: Output, size: int) -> None:
        self.output, self.size, self.closed = output, size, False
        output.update(self)

    def unread(self) -> int:
        return self.size

    def close_unread(self) -> None:
        self.closed = True


def test_the_connection_unread_for_the_longest_time_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        now = [0.0]
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
        output = Output(100)
        slow = Reader(output, 40)
        now[0] = 1.0
        stuck = Reader(output, 40)
        now[0] = 2.0
        slow.size = 39
        output.update(slow)
        now[0] = 3.0
        fresh = Reader(output, 40)
        assert [x.closed for x in (slow, stuck, fresh)] == [False, True, False]
        # Reads in between are noticed when the limit is reached.
        slow.size = fresh.size = 10
        now[0] = 4.0
        more = Reader(output, 79)
        assert [x.closed for x in (slow, fresh, more)] == [False, False, False]
        output.remove(slow)
        output.remove(slow)
        # A single connection may exceed the limit.
        more.size = 1000
        output.update(more)
        assert fresh.closed
        assert not more.closed

    run(test())


# ---- On connections


async def connected(bench: Bench, count: int) -> list[Client]:
    return [await bench.connected() for _ in range(count)]


def held(bench: Bench) -> int:
    """Return the bytes of lines that all connections have."""
    return sum(len(connection._lines.buffer) for connection in bench.console._connections)


async def settled(size: Callable[[], int]) -> None:
    """Wait until a number does not change any more: the runtime has stopped reading."""
    before, same = -1, 0
    while same < 20:
        same = same + 1 if before == size() else 0
        before = size()
        await asyncio.sleep(0.002)


def test_before_connect_a_few_kib_are_enough(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.client()
            client.send(b" " * CONNECT_SIZE)
            (server,) = await servers(bench, 1)
            await until(lambda: len(server._lines.buffer) == CONNECT_SIZE)
            client.send(b" ")
            assert await client.ended() == b""
            # The longest accepted line, and bytes right after it.
            client = await bench.client()
            line = b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}'
            client.send(line.ljust(CONNECT_SIZE) + b"\n", ident(2 * CONNECT_SIZE))
            assert await client.receive() == {"connect_ack": None}
            assert await client.receive() == IDENT

    run(test())
    (record,) = caplog.records
    assert "a line is longer than 4096 bytes, closing the connection" in record.getMessage()


async def servers(bench: Bench, count: int) -> list[Connection]:
    await until(lambda: len(bench.console._connections) == count)
    return list(bench.console._connections)


def test_endless_lines_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LINE_PAUSE", 0.3)

    async def test() -> None:
        async with serving(options=OPTIONS) as bench:
            bench.console._outside.lines = Reservations(2 * LINE_MAX)
            clients = await connected(bench, 20)
            for client in clients:
                client.send(b"x" * LINE_MAX)
            await settled(lambda: held(bench))
            assert held(bench) <= 2 * LINE_MAX + 20 * ALLOWANCE
            # Short requests are answered at once, a long one when the late ones are closed.
            other = await bench.connected()
            other.send(ident(100))
            assert await other.receive() == IDENT
            other.send(ident(LONG), ident(LONG), ident(10))
            for _ in range(3):
                assert await other.receive() == IDENT
            # Only the connections that delayed others are closed.
            for client in clients:
                client.send(b"\n")
            assert len(bench.console._connections) < 21

    run(test())


def test_long_lines_of_many_clients_are_all_answered() -> None:
    """More lines than the memory holds, sent in interleaved pieces: none waits forever."""

    async def talk(client: Client) -> None:
        line = ident(LONG)
        for _ in range(3):
            for start in range(0, len(line), 5000):
                client.send(line[start : start + 5000])
                await asyncio.sleep(0)
            assert await client.receive() == IDENT

    async def test() -> None:
        async with serving(options=OPTIONS) as bench:
            lines = bench.console._outside.lines = Reservations(2 * LINE_MAX)
            clients = await connected(bench, 20)
            await asyncio.gather(*map(talk, clients))
            await until(lambda: lines._used == 0)
            assert len(bench.console._connections) == 20

    run(test())


def test_a_long_request_keeps_its_memory_until_it_is_answered() -> None:
    async def test() -> None:
        async with serving(options=OPTIONS) as bench:
            lines = bench.console._outside.lines = Reservations(LINE_MAX)
            requests = bench.console._outside.requests
            bench.runtime.gates["mount"] = asyncio.Event()
            busy, other = await connected(bench, 2)
            mount = b'{"request":{"mount":{"containers":["a:1.0.0"]}}}'.ljust(LONG) + b"\n"
            busy.send(mount)
            await until(lambda: bench.runtime.busy)
            other.send(ident(LONG))
            await settled(lambda: held(bench))
            assert (lines._used, requests._used) == (LINE_MAX, EXECUTION * LONG)
            assert held(bench) == ALLOWANCE
            bench.runtime.gates["mount"].set()
            assert "mount" in (await busy.receive())["response"]
            assert await other.receive() == IDENT
            # The same if the client disconnects meanwhile.
            bench.runtime.gates["mount"].clear()
            busy.send(mount)
            await until(lambda: bench.runtime.busy)
            busy.writer.transport.abort()
            bench.runtime.gates["mount"].set()
            await until(lambda: (lines._used, requests._used) == (0, 0))

    run(test())


def test_long_requests_are_executed_a_few_at_a_time() -> None:
    async def test() -> None:
        async with serving() as bench:
            size = 2 * REQUEST
            requests = bench.console._outside.requests = Reservations(2 * EXECUTION * size)
            bench.runtime.gates["mount"] = asyncio.Event()
            clients = await connected(bench, 6)
            mount = b'{"request":{"mount":{"containers":["a:1.0.0"]}}}'.ljust(size) + b"\n"
            for client in clients:
                client.send(mount, ident(10))
            await until(lambda: len(requests._waiting) == 4)
            assert bench.runtime.busy == 2
            # Short ones do not wait, whatever they request.
            short = b'{"request":{"mount":{"containers":["b:2.0.0"]}}}\n'
            other = await bench.connected()
            other.send(short)
            await until(lambda: bench.runtime.busy == 3)
            bench.runtime.gates["mount"].set()
            for client in clients:
                assert "mount" in (await client.receive())["response"]
                assert await client.receive() == IDENT
            assert (requests._used, len(requests._waiting)) == (0, 0)

    run(test())


def test_packages_are_limited_together_and_none_waits_for_another() -> None:
    async def test() -> None:
        async with serving() as bench:
            packages = bench.console._outside.packages = Packages(4 * ALLOWANCE)
            bench.runtime.gates["write"] = asyncio.Event()
            clients = await connected(bench, 10)
            for client in clients:
                client.send(install(2**20), bytes(2**20))
            await until(lambda: bench.runtime.busy == 10)
            await settled(lambda: packages._used)
            assert packages._used <= 4 * ALLOWANCE + 10 * ALLOWANCE
            # With only the allowance it continues in small pieces.
            bench.runtime.gates["write"].set()
            for client in clients:
                assert "ok" in (await client.receive())["response"]["install"]
            await until(lambda: (packages._used, packages._count) == (0, 0))
            assert all(package.data == bytes(2**20) for package in bench.runtime.packages)

    run(test())


@pytest.mark.parametrize("how", ["too-late", "cut", "closed"])
def test_an_incomplete_package_releases_its_memory(how: str) -> None:
    async def test() -> None:
        options = ConsoleOptions(npk_stream_timeout=0.05 if how == "too-late" else 10.0)
        async with serving(options=options) as bench:
            packages = bench.console._outside.packages
            client = await bench.connected()
            client.send(install(1000), bytes(100))
            await until(lambda: packages._count)
            if how == "cut":
                client.writer.write_eof()
            elif how == "closed":
                client.writer.transport.abort()
            await until(lambda: (packages._used, packages._count) == (0, 0))

    run(test())


async def stuck(bench: Bench, client: Client) -> Connection:
    """Send requests without reading until the runtime stops answering."""
    known = set(bench.console._connections)
    client.stop_reading()
    client.send(CONNECT)
    await until(lambda: bench.console._connections - known or known)
    port = client.writer.get_extra_info("sockname")[1]
    (server,) = (c for c in bench.console._connections if c.peer.address.endswith(f":{port}"))
    while server._writable:
        client.send(b'{"request":"list"}\n' * 200)
        await asyncio.sleep(0.002)
    return server


def test_unread_output_is_limited_together(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(tcp=True) as bench:
            bench.console._outside.output = output = Output(4 * ALLOWANCE)
            clients = [await bench.client() for _ in range(8)]
            other = await bench.connected()
            await until(lambda: len(bench.console._connections) == 9)
            for client in clients:
                await stuck(bench, client)
                assert output._total <= 4 * ALLOWANCE
            # The first ones have not read for the longest time.
            assert 1 < len(bench.console._connections) < 9
            other.send({"request": "ident"})
            assert await other.receive() == IDENT
            for client in clients:
                client.read_on()
            await clients[0].ended()
        assert output._total == 0

    run(test())
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert messages
    assert all("the output of all connections exceeds its limit" in message for message in messages)


def test_neither_side_can_use_up_the_memory_of_the_other() -> None:
    async def fill(bench: Bench, client: Client) -> None:
        client.send(b"x" * LINE_MAX)
        await settled(lambda: held(bench))

    async def test(greedy_outside: bool) -> None:
        async with serving(options=OPTIONS) as bench:
            for side in (bench.console._outside, bench.console._containers):
                side.lines = Reservations(LINE_MAX)
            outside = await bench.connected()
            inside = await (await bench.container(FULL, OPTIONS)).connect()
            greedy, other = (outside, inside) if greedy_outside else (inside, outside)
            await fill(bench, greedy)
            other.send(ident(LONG))
            assert "ident" in (await other.receive())["response"]

    run(test(True))
    run(test(False))
