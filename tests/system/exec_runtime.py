"""The program `northstar`, with a second socket that executes processes in its containers.

    python exec_runtime.py SOCKET ANY -c ANY -c CONFIGURATION

It is a `wrap` of `RuntimeProcess`: this process replaces the command that follows SOCKET.
Each connection is one process: JSON lines, see `tests.system.execs`. Only `runtime.exec.execute` is
under test, so it is called directly; the console's requests have tests of their own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import os
import sys
from typing import Any

from northstar.api import RefusedError
from northstar.cli.northstar import main
from northstar.model import Container, Exited, NorthstarError
from northstar.runtime import exec as runtime_exec
from northstar.runtime import executor
from northstar.runtime import main as runtime_main

CHUNK = 16 * 1024


class TestedExecutor(executor.Executor):
    """The runtime's executor, which also listens on the socket."""

    def __init__(self, context: Any, *arguments: Any) -> None:
        super().__init__(context, *arguments)
        self.start_context = context
        serve = functools.partial(_serve, self)
        self._listening = asyncio.get_running_loop().create_task(
            asyncio.start_unix_server(serve, SOCKET, limit=2**20)
        )


async def _serve(
    tested: TestedExecutor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    request = json.loads(await reader.readline())
    container = Container.parse(request["container"])
    size = request.get("terminal")
    starting = asyncio.ensure_future(
        runtime_exec.execute(
            tested.start_context,
            tested.running[container],
            tested.state.containers[container].manifest,
            request["command"],
            request.get("environment", {}),
            stdin=request.get("stdin", False),
            terminal=None if size is None else runtime_exec.Terminal(*size),
            merge_output=request.get("merge", False),
        )
    )
    reading = asyncio.ensure_future(reader.readline())
    try:
        await asyncio.wait([starting, reading], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # the client has gone
            starting.cancel()
        process = await starting
    except asyncio.CancelledError:
        writer.close()
        return
    except (NorthstarError, OSError) as failure:
        _send(writer, error=str(failure), refused=isinstance(failure, RefusedError))
        writer.close()
        return
    _send(writer, started=True)
    try:
        await _relay(process, reader, reading, writer)
    finally:
        reading.cancel()
        await process.close()
        writer.close()


def _send(writer: asyncio.StreamWriter, **message: Any) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


async def _relay(process: Any, reader: Any, reading: Any, writer: asyncio.StreamWriter) -> None:
    async def requests() -> None:
        line = await reading
        while line:
            message = json.loads(line)
            if "stdin" in message:
                await _write(process.stdin, base64.b64decode(message["stdin"]))
            elif "signal" in message:
                process.signal(message["signal"])
            elif "resize" in message:
                process.resize(*message["resize"])
            elif "stdin_end" in message:
                process.close_stdin()
            line = await reader.readline()

    async def output() -> None:
        descriptors = {process.stdout: "stdout", process.stderr: "stderr"}
        await asyncio.gather(
            *(_copy(fd, name, writer) for fd, name in descriptors.items() if fd >= 0)
        )
        status = await process.exited
        kind, value = (
            ("code", status.code) if isinstance(status, Exited) else ("signal", status.signal)
        )
        _send(writer, **{kind: int(value)})
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    tasks = [asyncio.ensure_future(requests()), asyncio.ensure_future(output())]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _ready(descriptor: int, *, write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    add(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(descriptor)


async def _write(descriptor: int, data: bytes) -> None:
    while data:
        await _ready(descriptor, write=True)
        try:
            data = data[os.write(descriptor, data) :]
        except BrokenPipeError:
            return


async def _copy(descriptor: int, name: str, writer: asyncio.StreamWriter) -> None:
    while True:
        await _ready(descriptor)
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            continue
        except OSError:  # EIO: no process has the terminal open
            return
        if not data:
            return
        _send(writer, **{name: base64.b64encode(data).decode()})
        await writer.drain()


if __name__ == "__main__":
    SOCKET = sys.argv[1]
    setattr(runtime_main, "Executor", TestedExecutor)  # noqa: B010, no re-export
    sys.argv = ["northstar", *sys.argv[5:]]
    sys.exit(main())
