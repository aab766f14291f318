"""An exec'ed process of the blocking client."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from northstar.api.stream import ClientStream, Resize, Signal, StdinEnd
from northstar.client import process as shared
from northstar.client.process import Completed
from northstar.client.session import Call
from northstar.model import ExitStatus, NorthstarError


class Wire(NamedTuple):
    """What a process uses of its client.

    Attributes:
        socket: the socket of the connection.
        line: returns the line of a message.
        send_some: sends without waiting, and returns the number of bytes.
        send: sends all.
        exchange: waits until something can be received, which is done, or, with True, sent;
            returns whether it can be sent.
        close: closes the connection.
    """

    socket: socket.socket
    line: Callable[[ClientStream], bytes]
    send_some: Callable[[memoryview], int]
    send: Callable[[memoryview], None]
    exchange: Callable[[bool], bool]
    close: Callable[[], None]


class Process:
    """A process in a container, made by `Client.exec`; it has the connection for itself.

    A refusal of the runtime is raised by `wait`, by `output` and by `communicate`: the request is
    answered at the end of the process. As a context manager it is ended with `close`.

    All methods may raise: RefusedError, PermissionDeniedError, DisconnectedError, ProtocolError.
    """

    def __init__(self, wire: Wire, call: Call) -> None:
        self._wire = wire
        self._call = call
        self._unsent: deque[memoryview] = deque()
        self._partial = False
        self._finished = False
        shared.end_at_once(wire.socket, True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection if the process runs: the runtime sends it SIGHUP, then SIGKILL."""
        if not self.ended:
            self._wire.close()

    # Input.

    def write(self, data: bytes) -> None:
        """Write to its stdin, and return when all is sent. Output that arrives meanwhile is kept.

        Once the process has ended, or has closed its stdin, input is dropped.
        """
        for message in shared.pieces(data):
            self.queue(message)
            self._exchange_until(lambda: not self.unsent)

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
        self.queue(message)
        self._exchange_until(lambda: not self.unsent)

    # Output and status.

    def output(self) -> Iterator[tuple[str, bytes]]:
        """Yield the output until the process has ended, as pairs of `stdout` or `stderr` and data.

        Without a reader of its output the process waits.
        """
        while True:
            while self._call.output:
                yield shared.named(self._call.output.popleft())
            if self.ended:
                shared.status_in(self._call)
                return
            self._wire.exchange(False)

    def wait(self) -> ExitStatus:
        """Return its exit status when it has ended; output that was not read is dropped."""
        for _ in self.output():
            pass
        return shared.status_in(self._call)

    def communicate(self, data: bytes = b"") -> Completed:
        """Write data, end the input, and return all output and the status."""
        self.write(data)
        self.close_stdin()
        output = list(self.output())
        return shared.completed(self.wait(), output)

    # Without waiting, for a caller with a poll loop.

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._wire.socket.fileno()

    @property
    def ended(self) -> bool:
        """Whether the process has ended, or the connection. Output may still have to be read."""
        if self._call.done and not self._finished:
            self._finished = True
            # The runtime drops what it receives now, but it must be whole lines.
            rest, self._unsent = self._unsent, deque()
            if self._partial:
                with contextlib.suppress(NorthstarError):  # the connection has ended too
                    self._wire.send(rest[0])
            if self._wire.socket.fileno() >= 0:
                shared.end_at_once(self._wire.socket, False)
        return self._finished

    @property
    def unsent(self) -> bool:
        """Whether queued messages are not sent."""
        return bool(self._unsent) and not self.ended

    def queue(self, message: ClientStream) -> None:
        """Add a message to those that `flush` sends; none after the end of the process."""
        if not self.ended:
            self._unsent.append(memoryview(self._wire.line(message)))

    def flush(self) -> None:
        """Send as much as is possible without waiting."""
        while self.unsent:
            line = self._unsent[0]
            count = self._wire.send_some(line)
            if count == len(line):
                self._unsent.popleft()
                self._partial = False
                continue
            self._unsent[0] = line[count:]
            self._partial |= count > 0
            return

    def receive(self) -> None:
        """Receive what has arrived; wait if nothing has."""
        self._wire.exchange(False)

    def next_output(self) -> tuple[str, bytes] | None:
        """Return output that was received, in order; None if there is none."""
        return shared.named(self._call.output.popleft()) if self._call.output else None

    def _exchange_until(self, done: Callable[[], bool]) -> None:
        self.flush()
        while not done() and not self.ended:
            # Output is received too: a process whose output nobody takes does not read its input.
            if self._wire.exchange(True):
                self.flush()
