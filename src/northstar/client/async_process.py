"""An exec'ed process of the asyncio client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Self

from northstar.api.stream import ClientStream, Resize, Signal, StdinEnd
from northstar.client import process as shared
from northstar.client.process import Completed
from northstar.client.session import Call
from northstar.model import ExitStatus


class Wire(NamedTuple):
    """What a process uses of its client.

    Attributes:
        socket: the socket of the connection.
        line: returns the line of a message.
        write: sends bytes, without waiting.
        writable: waits until more should be sent.
        wait: waits until received messages make a condition true, or the connection has ended.
        receive: with False receives no more, with True it continues.
        close: closes the connection.
    """

    socket: socket.socket
    line: Callable[[ClientStream], bytes]
    write: Callable[[bytes], None]
    writable: Callable[[], Awaitable[object]]
    wait: Callable[[Callable[[], bool]], Awaitable[None]]
    receive: Callable[[bool], None]
    close: Callable[[], Awaitable[None]]


class Process:
    """A process in a container, made by `Client.exec`; it has the connection for itself.

    A refusal of the runtime is raised by `wait`, by `output` and by `communicate`: the request is
    answered at the end of the process. As a context manager it is ended with `close`.

    All methods may raise: RefusedError, PermissionDeniedError, DisconnectedError, ProtocolError.
    """

    def __init__(self, wire: Wire, call: Call) -> None:
        self._wire = wire
        self._call = call
        self._readers = 0
        shared.end_at_once(wire.socket, True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection if the process runs: the runtime sends it SIGHUP, then SIGKILL."""
        if not self.ended:
            await self._wire.close()

    @property
    def ended(self) -> bool:
        """Whether the process has ended, or the connection. Output may still have to be read."""
        return self._call.done

    # Input.

    async def write(self, data: bytes) -> None:
        """Write to its stdin; returns when more can be sent, which waits until the process reads.

        Once the process has ended, or has closed its stdin, input is dropped. Its output must be
        read meanwhile: a process whose output nobody takes does not read its input.
        """
        for message in shared.pieces(data):
            self._send(message)
            await self._wire.writable()

    def close_stdin(self) -> None:
        """End its input. On a terminal this is the character of the end, as if it were typed."""
        self._send(StdinEnd())

    def send_signal(self, number: int) -> None:
        """Send a signal (1 to 31) to its process group, behind the input that was sent before."""
        self._send(Signal(number))

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal."""
        self._send(Resize(rows, columns))

    def _send(self, message: ClientStream) -> None:
        if not self.ended:
            self._wire.write(self._wire.line(message))

    # Output and status.

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Yield the output until the process has ended, as pairs of `stdout` or `stderr` and data.

        Without a reader of its output the process waits.
        """
        call = self._call
        self._readers += 1
        try:
            while True:
                while call.output:
                    data = call.output.popleft()
                    self._wire.receive(True)
                    yield shared.named(data)
                if self.ended:
                    shared.status_in(call)
                    return
                await self._changed()
        finally:
            self._readers -= 1

    async def wait(self) -> ExitStatus:
        """Return its exit status when it has ended.

        Output that was not read is dropped, unless it is being read by `output`.
        """
        while not self.ended:
            if not self._readers:
                self._call.output.clear()
                self._wire.receive(True)
            await self._changed()
        return shared.status_in(self._call)

    async def communicate(self, data: bytes = b"") -> Completed:
        """Write data, end the input, and return all output and the status."""

        async def write() -> None:
            await self.write(data)
            self.close_stdin()

        writing = asyncio.create_task(write())
        try:
            output = [part async for part in self.output()]
        finally:
            writing.cancel()
            await asyncio.wait([writing])
        return shared.completed(await self.wait(), output)

    async def _changed(self) -> None:
        """Wait until output or the status is received."""
        call, known = self._call, len(self._call.output)
        await self._wire.wait(lambda: call.done or len(call.output) != known)
