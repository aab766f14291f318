"""Exec requests: a real process and a real connection, in both directions."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from northstar.api import RefusedError, error
from northstar.model import FULL, Permission
from northstar.runtime import exec_session
from northstar.runtime.config import ConsoleOptions
from northstar.runtime.console.connection import Connection
from tests.unit.runtime.console.harness import (
    EXTENDED,
    NO_LIMIT,
    A,
    Bench,
    Client,
    run,
    serving,
    until,
)

EXEC = FULL | {Permission.EXEC}
OK = {"container": "a:1.0.0"}


def request(*command: str, stdin: bool = True, tty: Any = None, **environment: str) -> Any:
    return {
        "request": {
            "exec": {
                "container": "a:1.0.0",
                "command": list(command),
                "environment": environment,
                "stdin": stdin,
                "tty": tty,
            }
        }
    }


def shell(script: str, **options: Any) -> Any:
    return request("/bin/sh", "-c", script, **options)


def stdin(data: bytes) -> Any:
    return {"stream": {"stdin": base64.b64encode(data).decode()}}


END = {"stream": "stdin_end"}


def answer(status: Any) -> Any:
    return {"response": {"exec": {"ok": {**OK, "status": status}}}}


def exited(code: int) -> Any:
    return answer({"exit": {"code": code}})


def signalled(number: int) -> Any:
    return answer({"signalled": {"signal": number}})


async def conversation(client: Client) -> tuple[dict[str, bytes], Any]:
    """Receive output, up to the response; return the output by stream, and the response."""
    output: dict[str, bytes] = {}
    while True:
        message = await client.receive()
        if "stream" not in message:
            return output, message
        [(name, data)] = message["stream"].items()
        raw = base64.b64decode(data)
        assert 0 < len(raw) <= 16 * 1024
        output[name] = output.get(name, b"") + raw


async def execute(bench: Bench, *messages: Any) -> tuple[dict[str, bytes], Any]:
    client = await bench.connected(EXTENDED)
    client.send(*messages)
    return await conversation(client)


def test_input_output_and_status() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            script = 'printf "$V"; cat; echo bad >&2; exit 7'
            output, response = await execute(
                bench, shell(script, V="v"), stdin(b"in\0\xff"), stdin(b"put"), END
            )
            assert output == {"stdout": b"vin\0\xffput", "stderr": b"bad\n"}
            assert response == exited(7)
            assert bench.runtime.processes[0].closed

    run(test())


def test_without_stdin_the_input_is_empty() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            output, response = await execute(
                bench, shell("cat; echo done", stdin=False), stdin(b"dropped")
            )
            assert (output, response) == ({"stdout": b"done\n"}, exited(0))

    run(test())


def test_the_connection_serves_requests_afterwards() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            for code in range(3):
                client.send(shell(f"exit {code}"))
                assert await conversation(client) == ({}, exited(code))
            assert await client.ask("ident") == {"ident": "extern:0.0.0"}

    run(test())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_process_group(number: int) -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("sleep 1000 & echo ready; wait"))
            assert "stream" in await client.receive()
            client.send({"stream": {"signal": number}})
            _, response = await conversation(client)
            assert response == signalled(number)

    run(test())


def test_stop_and_continue() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("echo ready; read line; echo $line"))
            assert "stream" in await client.receive()
            client.send({"stream": {"signal": signal.SIGSTOP}}, stdin(b"late\n"))
            child = bench.runtime.processes[0]._child.pid
            await until(lambda: "State:\tT" in Path(f"/proc/{child}/status").read_text())
            client.send({"stream": {"signal": signal.SIGCONT}})
            assert await conversation(client) == ({"stdout": b"late\n"}, exited(0))

    run(test())


def test_a_terminal_with_its_size() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            script = "stty size; echo err >&2; read x; stty size; exit 3"
            client.send(shell(script, tty={"rows": 12, "columns": 34}))
            seen = b""
            while b"err" not in seen:
                seen += base64.b64decode((await client.receive())["stream"]["stdout"])
            client.send({"stream": {"resize": {"rows": 5, "columns": 6}}}, stdin(b"\n"))
            output, response = await conversation(client)
            assert seen.startswith(b"12 34\r\n")
            assert output.keys() == {"stdout"}
            assert b"5 6\r\n" in output["stdout"]
            assert response == exited(3)

    run(test())


def test_ctrl_c_on_a_terminal() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(
                shell(
                    "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.01; done",
                    tty={"rows": 1, "columns": 1},
                )
            )
            assert "stream" in await client.receive()
            client.send(stdin(b"\x03"))
            output, response = await conversation(client)
            assert b"caught" in output["stdout"]
            assert response == exited(4)

    run(test())


def test_a_process_that_cannot_be_executed() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            output, response = await execute(bench, request("/nowhere"), stdin(b"x"), END)
            failed = {"unexpected": {"error": "cannot execute /nowhere: No such file or directory"}}
            assert output == {}
            assert response == {"response": {"exec": {"error": {**OK, "error": failed}}}}

    run(test())


def test_a_refusal_leaves_the_connection() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            refusal = RefusedError(error.StopContainerNotStarted(A))
            bench.runtime.failures["exec"] = refusal
            client = await bench.connected(EXTENDED)
            client.send(shell("true"), stdin(b"x"), END)
            _, response = await conversation(client)
            assert response["response"]["exec"]["error"]["error"] == {
                "stop_container_not_started": OK
            }
            assert await client.ask("ident") == {"ident": "extern:0.0.0"}

    run(test())


def test_full_does_not_permit_it() -> None:
    """The messages that a client has sent behind the request are dropped."""

    async def test() -> None:
        async with serving(FULL) as bench:
            client = await bench.connected(EXTENDED)
            message = shell("true")
            client.send(message, stdin(b"x"), END)
            assert (await client.receive())["response"]["permission_denied"] == message["request"]
            assert await client.ask("ident") == {"ident": "extern:0.0.0"}
            assert bench.runtime.processes == []

    run(test())


CLOSING = b'{"notification":{"closing":{"reason":"'
"""How the last message of a connection begins that the runtime closes."""


@pytest.mark.parametrize("message", [stdin(b"x"), END, {"stream": {"signal": 9}}])
def test_a_stream_without_an_exec_closes_the_connection(message: Any) -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(message)
            assert (await client.ended()).startswith(CLOSING)
            # And after another request that follows an exec.
            client = await bench.connected(EXTENDED)
            client.send(shell("true"))
            await conversation(client)
            assert await client.ask("ident")
            client.send(message)
            assert (await client.ended()).startswith(CLOSING)

    run(test())


def test_late_messages_are_dropped() -> None:
    """The client may send them before it has received the response."""

    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("exit 1"))
            assert await conversation(client) == ({}, exited(1))
            client.send(*[stdin(b"late")] * 100, END, {"stream": {"signal": 9}})
            assert await client.ask("ident") == {"ident": "extern:0.0.0"}

    run(test())


@pytest.mark.parametrize("message", [{"request": "ident"}, shell("true")])
def test_a_request_during_an_exec_closes_the_connection(message: Any) -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("echo ready; cat"))
            assert "stream" in await client.receive()
            client.send(message)
            assert (await client.ended()).startswith(CLOSING)
            [process] = bench.runtime.processes
            await until(lambda: process.closed)
            assert process.signals[0] == signal.SIGHUP

    run(test())


@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize("flood", [True, False], ids=["input waits", "no input"])
def test_client_gone_is_hup_and_one_second_later_kill(tcp: bool, flood: bool) -> None:
    async def test() -> None:
        async with serving(EXEC, tcp=tcp) as bench:
            client = await bench.connected(EXTENDED)
            # A process that HUP does not end, and that does not read its input.
            client.send(shell("trap '' HUP; echo ready; while :; do sleep 1000; done"))
            assert "stream" in await client.receive()
            [process] = bench.runtime.processes
            if flood:
                # The console reads no more: so it does not read the end of the stream either.
                for _ in range(30):
                    client.send(stdin(bytes(8192)))
                [connection] = bench.console._connections
                await until(lambda: not connection._reading)
            began = time.monotonic()
            if tcp:
                # As the clients of the project: the end must not queue behind the data.
                sock = client.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await until(lambda: process.closed)
            assert process.signals[:2] == [signal.SIGHUP, signal.SIGKILL]
            assert time.monotonic() - began >= exec_session.KILL_DELAY
            assert process.exited.result() == (signal.SIGKILL,)

    run(test())


def test_hup_suffices_for_others() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("echo ready; sleep 1000"))
            assert "stream" in await client.receive()
            # Half of the connection is its end too, but the response can be read.
            client.writer.write_eof()
            assert await conversation(client) == ({}, signalled(signal.SIGHUP))
            assert bench.runtime.processes[0].signals == [signal.SIGHUP]

    run(test())


def test_the_end_of_the_connection_during_the_execution() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            bench.runtime.gates["exec"] = asyncio.Event()
            client = await bench.connected(EXTENDED)
            client.send(shell("sleep 1000"))
            await until(lambda: bench.runtime.busy)
            await client.close()
            [connection] = bench.console._connections
            await until(lambda: connection._lines.ended)
            bench.runtime.gates["exec"].set()
            await until(lambda: bench.runtime.processes)
            await until(lambda: bench.runtime.processes[0].closed)
            assert bench.runtime.processes[0].signals == [signal.SIGHUP]

    run(test())


def test_client_that_does_not_read_holds_up_its_own_process_only() -> None:
    async def test() -> None:
        async with serving(EXEC, tcp=True) as bench:
            slow = await bench.connected(EXTENDED)
            slow.stop_reading()
            counter = (
                "import os, sys\n"
                "for n in range(10**9):\n"
                "    os.write(1, bytes(4096)); sys.stderr.flush()\n"
            )
            slow.send(request(sys.executable, "-c", counter))
            await until(lambda: bench.runtime.processes)
            [process] = bench.runtime.processes
            [connection] = bench.console._connections
            await until(lambda: not connection._writable)
            await until(lambda: written(process._child.pid) == written(process._child.pid) > 0)
            await asyncio.sleep(0.05)
            held = written(process._child.pid)
            # Neither the process nor the memory grows.
            assert connection.unread() < 64 * 1024
            output, response = await execute(bench, shell("echo others; exit 2"))
            assert (output, response) == ({"stdout": b"others\n"}, exited(2))
            assert written(process._child.pid) == held
            # It continues when the client reads.
            slow.read_on()
            await until(lambda: written(process._child.pid) > held)

    run(test())


def written(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def test_process_that_does_not_read_holds_up_its_own_client_only() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("echo ready; sleep 1000"))
            assert "stream" in await client.receive()
            for _ in range(500):
                client.send(stdin(bytes(16384)))
            [connection] = bench.console._connections
            await until(lambda: not connection._reading)
            assert connection._channel is not None
            assert connection._channel.is_full
            assert len(connection._lines.buffer) <= 64 * 1024
            output, response = await execute(bench, shell("cat"), stdin(bytes(9000)), END)
            assert (output, response) == ({"stdout": bytes(9000)}, exited(0))

    run(test())


def test_a_closed_input_is_no_error() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("exec 0<&-; echo closed; read x <&1; sleep 1000"))
            assert "stream" in await client.receive()
            client.send(*[stdin(bytes(16384))] * 40, END, {"stream": {"signal": signal.SIGTERM}})
            assert await conversation(client) == ({}, signalled(signal.SIGTERM))

    run(test())


@pytest.mark.parametrize("tty", [None, {"rows": 1, "columns": 1}])
def test_a_process_left_behind_does_not_hold_the_response(tty: Any) -> None:
    """It has the output open, writes without end, and ignores the hang-up of the terminal."""

    async def test() -> None:
        async with serving(EXEC) as bench:
            script = (
                "trap '' HUP; setsid sh -c 'trap \"\" HUP; while :; do echo y; done' &"
                "echo $!; echo last; exit 5"
            )
            output, response = await execute(bench, shell(script, tty=tty))
            first = output["stdout"].split()[0]
            try:
                assert response == exited(5)
                assert b"last" in output["stdout"]
            finally:
                for pid in descendants(int(first)):
                    os.kill(pid, signal.SIGKILL)

    run(test())


def descendants(pid: int) -> Iterable[int]:
    # setsid(1) executes the shell itself, or forks it if it is a leader of a group already.
    yield pid
    yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_all_output_comes_before_the_response() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            # The largest pipe is full at the exit.
            script = (
                "import fcntl, os\n"
                "for fd in 1, 2:\n"
                "    size = fcntl.fcntl(fd, 1031, 2**20)\n"
                "    os.set_blocking(fd, False)\n"
                "total = [0, 0]\n"
                "for fd in 1, 2:\n"
                "    try:\n"
                "        while True: total[fd - 1] += os.write(fd, bytes(4096))\n"
                "    except BlockingIOError: pass\n"
                "os.set_blocking(1, True)\n"
                "os.write(1, b'%d %d' % tuple(total))\n"
            )
            output, response = await execute(bench, request(sys.executable, "-c", script))
            assert response == exited(0)
            counted = output["stdout"].lstrip(b"\0")
            assert counted == b"%d %d" % (
                len(output["stdout"]) - len(counted),
                len(output["stderr"]),
            )

    run(test())


def test_a_mebibyte_through_stdin_to_stdout() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            data = os.urandom(2**20)
            client.send(request("/bin/cat"))
            receiving = asyncio.ensure_future(conversation(client))
            for start in range(0, len(data), 16384):
                client.send(stdin(data[start : start + 16384]))
                await client.writer.drain()
            client.send(END)
            output, response = await receiving
            assert response == exited(0)
            assert output["stdout"] == data

    run(test())


def test_messages_count_for_the_rate_of_bytes_only() -> None:
    async def test() -> None:
        options = ConsoleOptions(max_requests_per_sec=2)
        async with serving(EXEC, options) as bench:
            client = await bench.connected(EXTENDED)
            began = time.monotonic()
            client.send(request("/bin/cat"), *[stdin(b"x")] * 2000, END)
            output, response = await conversation(client)
            assert response == exited(0)
            assert output == {"stdout": b"x" * 2000}
            # So do those that come too late; the next requests count again.
            client.send(*[stdin(b"x")] * 2000)
            assert await client.ask("ident")
            assert time.monotonic() - began < 60
            for _ in range(3):
                assert await client.ask("ident")
            # Five requests, of which two may be within any second.
            assert time.monotonic() - began >= 1.9

    run(test())


def test_messages_after_a_denied_request_count_as_requests() -> None:
    async def test() -> None:
        async with serving(FULL, ConsoleOptions(max_requests_per_sec=10)) as bench:
            client = await bench.connected(EXTENDED)
            began = time.monotonic()
            client.send(shell("true"), *[stdin(b"x")] * 30)
            assert "permission_denied" in (await client.receive())["response"]
            assert await client.ask("ident")
            assert time.monotonic() - began >= 2.9

    run(test())


def test_a_flood_of_messages_leaves_turns_to_others() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            flood = await bench.connected(EXTENDED)
            flood.send(shell("echo ready; cat > /dev/null"))
            assert "stream" in await flood.receive()
            one = json.dumps({"stream": {"resize": {"rows": 1, "columns": 1}}}).encode() + b"\n"
            flood.send(one * 20_000)
            [connection] = bench.console._connections
            await until(lambda: connection._lines.buffer)
            other = await bench.connected()
            assert await other.ask("ident")
            # The other one was served in the middle of the flood.
            assert connection._lines.buffer

    run(test())


@pytest.mark.parametrize(
    "message",
    [
        {"stream": {"stdin": base64.b64encode(bytes(16385)).decode()}},
        {"stream": {"stdin": "?"}},
        {"stream": {"stdout": ""}},
        {"stream": {"signal": 0}},
        {"stream": {"signal": 32}},
        {"stream": {"resize": {"rows": 65536, "columns": 1}}},
        {"stream": "stdin"},
        {"stream": None},
        {"log": {}},
    ],
)
def test_invalid_messages_close_the_connection(message: Any) -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("echo ready; cat"))
            assert "stream" in await client.receive()
            client.send(message)
            assert (await client.ended()).startswith(CLOSING)
            [process] = bench.runtime.processes
            await until(lambda: process.closed)

    run(test())


def test_a_plain_connection_knows_neither_request_nor_messages() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            for message in (shell("true"), stdin(b"x")):
                client = await bench.connected()
                client.send(message)
                assert await client.ended() == b""
            assert bench.runtime.processes == []

    run(test())


def test_the_shutdown_ends_the_process() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("trap '' HUP; echo ready; while :; do sleep 1000; done"))
            assert "stream" in await client.receive()
            await bench.console.close(grace_period=0.05)
            [process] = bench.runtime.processes
            await until(lambda: process.closed)
            assert process.exited.result() == (signal.SIGKILL,)

    run(test())


def test_eight_at_once_on_eight_connections() -> None:
    async def test() -> None:
        async with serving(EXEC) as bench:
            results = await asyncio.gather(
                *(execute(bench, shell(f"cat; exit {n}"), stdin(b"%d" % n), END) for n in range(8))
            )
            assert results == [({"stdout": b"%d" % n}, exited(n)) for n in range(8)]

    run(test())


def test_memory_of_a_long_request_is_free_while_its_process_runs() -> None:
    async def test() -> None:
        async with serving(EXEC, NO_LIMIT) as bench:
            client = await bench.connected(EXTENDED)
            client.send(shell("echo ready; cat", LONG="x" * 100_000))
            assert "stream" in await client.receive()
            [connection] = bench.console._connections
            assert isinstance(connection, Connection)
            memory = connection._access.memory
            assert connection._lines._execution_memory is None
            assert memory.requests._used == 0
            client.send(END)
            assert (await conversation(client))[1] == exited(0)

    run(test())
