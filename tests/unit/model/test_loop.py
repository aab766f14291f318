"""Deadlines in a blocked event loop: events that are pending at the deadline count."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from northstar.model.loop_deadline import Timer, timeout, wait

BLOCKED = 0.3
SHORT = 0.1


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


def block_loop() -> None:
    """Block the event loop, as if the process was stopped."""
    time.sleep(BLOCKED)


def test_it_is_called_when_nothing_happens() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        expired = loop.create_future()
        begun = loop.time()
        Timer(SHORT, lambda: expired.set_result(None))
        await expired
        assert loop.time() - begun >= SHORT

    run(test)


def test_it_can_be_cancelled_at_any_time() -> None:
    async def test() -> None:
        called: list[int] = []
        timer = Timer(SHORT, lambda: called.append(1))
        timer.cancel()
        timer.cancel()
        timer = Timer(0.0, lambda: called.append(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        timer.cancel()
        await asyncio.sleep(2 * SHORT)
        assert called == []

    run(test)


def test_pending_bytes_count() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            async with timeout(SHORT):
                receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
                await asyncio.sleep(0)
                theirs.send(b"here")
                block_loop()
                assert await receiving == b"here"

    run(test)


def test_it_expires_without_an_event() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            begun = loop.time()
            with pytest.raises(TimeoutError):
                async with timeout(SHORT):
                    await loop.sock_recv(ours, 10)
            assert SHORT <= loop.time() - begun < 5.0
            async with timeout(None):
                theirs.send(b"late")
                assert await loop.sock_recv(ours, 10) == b"late"

    run(test)


def test_an_outer_timeout_is_independent() -> None:
    async def test() -> None:
        async def inner() -> None:
            async with timeout(30.0):
                await asyncio.sleep(30.0)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(inner(), SHORT)

    run(test)


def test_the_time_of_a_blocked_loop_is_added() -> None:
    """The peer's answer arrives after the block: it needs half of the timeout again."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()

        async def ask() -> None:
            block_loop()
            loop.call_later(SHORT / 2, answered.set_result, None)
            await answered

        async with timeout(SHORT):
            await ask()

    run(test)


def test_waiting_for_several() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        assert await wait([], 1.0) == (set(), set())
        first, second = loop.create_future(), loop.create_future()
        loop.call_soon(first.set_result, 1)
        assert await wait([first, second], SHORT) == ({first}, {second})
        assert not second.cancelled()
        second.set_exception(TimeoutError())
        assert await wait([first, second], SHORT) == ({first, second}, set())
        assert isinstance(second.exception(), TimeoutError)

    run(test)


STOPPED = """
import asyncio, signal, socket, sys
from northstar.model.loop_deadline import timeout

# With a handler, SIGCONT interrupts the waiting call on every kernel.
signal.signal(signal.SIGCONT, lambda *_: None)

async def main():
    loop = asyncio.get_running_loop()
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(False)
    print("ready", flush=True)
    async with timeout(0.2):
        print((await loop.sock_recv(sock, 10)).decode())

asyncio.run(main())
"""


def test_a_process_that_was_stopped() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", STOPPED, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # It waits in epoll_wait(2), which fails with EINTR after SIGCONT.
        while "S (sleeping)" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        ours.send(b"here")
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGCONT)
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "here\n")
