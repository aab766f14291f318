"""A client that was stopped (SIGSTOP) longer than its timeout processes what arrived meanwhile."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from northstar.client import blocking
from tests.unit.client.peer import Peer, Wire

TIMEOUT = 0.3
"""Seconds that the client waits. It is stopped for twice as long."""

PRELUDE = """
import asyncio, signal, sys
from northstar import client
from northstar.client import blocking

url = sys.argv[1]
# Like programs that set the terminal again: what waits is interrupted, on every kernel.
signal.signal(signal.SIGCONT, lambda *_: None)
print("begin", flush=True)
"""
CONNECTING = f"""
with blocking.Client.connect(url, timeout={TIMEOUT}) as one:
    print("connected")
"""
ASKING = f"""
with blocking.Client.connect(url, timeout={TIMEOUT}) as one:
    print(one.ident())
"""
STOPPING = f"""
with blocking.Client.connect(url, subscribe=True) as one:
    print(one.stop("a:1.0.0", {TIMEOUT}))
"""
CONNECTING_ASYNC = f"""
async def main():
    async with await client.Client.connect(url, timeout={TIMEOUT}) as one:
        print("connected")
asyncio.run(main())
"""
STOPPING_ASYNC = f"""
async def main():
    async with await client.Client.connect(url, subscribe=True) as one:
        print(await one.stop("a:1.0.0", {TIMEOUT}))
asyncio.run(main())
"""
NSTAR = f"""
from northstar.cli.nstar import main
sys.argv = ["nstar", "-u", url, "-t", "{int(TIMEOUT * 1000)}ms", "repositories"]
main()
"""


class Client:
    """A client in a separate process."""

    def __init__(self, program: str, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + program, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "begin\n"

    def stop(self) -> None:
        """Stop it while it waits for the script; it waits in a system call by now."""
        while "S (sleeping)" not in Path(f"/proc/{self.process.pid}/status").read_text():
            time.sleep(0.001)
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Continue it after its timeout has passed."""
        time.sleep(2 * TIMEOUT)
        os.kill(self.process.pid, signal.SIGCONT)

    def said(self) -> str:
        out, _ = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, out
        return out


class Scripted:
    """A script for the peer that can stop the client's process."""

    def __init__(self, script: Callable[[Wire, Client], None]) -> None:
        self._script = script
        self._client: queue.SimpleQueue[Client] = queue.SimpleQueue()

    def run(self, program: str, directory: Path) -> str:
        """Run a program against the script; return what it prints."""
        with Peer(directory, self) as peer:
            client = Client(program, peer.url)
            self._client.put(client)
            return client.said()

    def __call__(self, wire: Wire) -> None:
        self._script(wire, self._client.get(timeout=20))


@pytest.mark.parametrize("program", [CONNECTING, CONNECTING_ASYNC], ids=["blocking", "asyncio"])
def test_while_it_connects(tmp_path: Path, program: str) -> None:
    def script(wire: Wire, client: Client) -> None:
        assert "connect" in wire.line()
        client.stop()
        wire.send({"connect_ack": None})
        client.go_on()
        wire.expect_end()

    assert Scripted(script).run(program, tmp_path) == "connected\n"


@pytest.mark.parametrize("program", [ASKING, NSTAR], ids=["blocking", "nstar"])
def test_while_it_waits_for_an_answer(tmp_path: Path, program: str) -> None:
    def script(wire: Wire, client: Client) -> None:
        wire.greet()
        request = wire.line()["request"]
        client.stop()
        answer = "extern:0.0.0" if request == "ident" else ["mem"]
        wire.send({"response": {request: answer}})
        client.go_on()
        wire.expect_end()

    assert Scripted(script).run(program, tmp_path) in ("extern:0.0.0\n", "mem\n")


@pytest.mark.parametrize("program", [STOPPING, STOPPING_ASYNC], ids=["blocking", "asyncio"])
def test_while_a_container_ends(tmp_path: Path, program: str) -> None:
    """It has ended in time, so no SIGKILL is sent."""
    exited = {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 3}}]}}
    other = {"notification": {"exit": ["b:1.0.0", {"exit": {"code": 0}}]}}

    def script(wire: Wire, client: Client) -> None:
        wire.greet(subscribe=True)
        kill = {"kill": {"container": "a:1.0.0", "signal": 15}}
        wire.answer(kill, {"response": {"kill": {"ok": {"container": "a:1.0.0"}}}})
        # Wait until it has read the answer, and waits for the end.
        time.sleep(0.1)
        client.stop()
        wire.send(*[other] * 500, exited)
        client.go_on()
        wire.expect_end()

    assert (
        Scripted(script).run(program, tmp_path) == "Stopped(killed=False, status=Exited(code=3))\n"
    )


def test_silence_is_still_a_timeout(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        assert wire.line() == {"request": "ident"}
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        blocking.Client.connect(peer.url, timeout=0.05) as client,
    ):
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s"):
            client.ident()
        assert 0.05 <= time.monotonic() - begun < 5.0
