"""What both clients share about exec'ed processes. The module is loaded on first use."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from northstar.api import request, response
from northstar.api.stream import Stderr, Stdin, TerminalSize
from northstar.client.session import Call, Output
from northstar.model import Container, ExitStatus, InvalidValueError

PIECE: Final = 8 * 1024
"""Bytes of input in one message. Its line fits into the memory that the runtime guarantees to each
connection: it never waits for that of others."""

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
"""Names of the streams of output."""


class Completed(NamedTuple):
    """A process that has ended.

    Attributes:
        status: its exit code, or the signal that terminated it.
        stdout: its output; with a terminal all of it.
        stderr: its output on standard error.
    """

    status: ExitStatus
    stdout: bytes
    stderr: bytes


def exec_request(
    container: Container,
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    stdin: bool,
    tty: tuple[int, int] | None,
) -> request.Exec:
    """Return the request.

    Raises:
        InvalidValueError: the command is a str, whose characters would become the arguments.
    """
    if isinstance(command, str | bytes):
        raise InvalidValueError(
            f"the command {command!r} is one text",
            hint="pass a list: the path of the program in the container, and its arguments",
        )
    size = None if tty is None else TerminalSize(*tty)
    return request.Exec(container, tuple(command), dict(environment or {}), stdin, size)


def pieces(data: bytes) -> Iterator[Stdin]:
    """Yield the messages for some input."""
    for start in range(0, len(data), PIECE):
        yield Stdin(data[start : start + PIECE])


def named(output: Output) -> tuple[str, bytes]:
    """Return the name of the stream, and the data."""
    return (STDERR if isinstance(output, Stderr) else STDOUT), output.data


def status_in(call: Call) -> ExitStatus:
    """Return the status from an answer.

    Raises:
        NorthstarError: it is no status.
    """
    result = call.result(response.Exec).result
    assert isinstance(result, response.ExecOk)
    return result.status


def completed(status: ExitStatus, output: Iterable[tuple[str, bytes]]) -> Completed:
    """Return the result of a process that has ended, with all of its output."""
    parts: dict[str, list[bytes]] = {STDOUT: [], STDERR: []}
    for stream, data in output:
        parts[stream].append(data)
    return Completed(status, b"".join(parts[STDOUT]), b"".join(parts[STDERR]))


def end_at_once(stream: socket.socket, wanted: bool) -> None:
    """Let the end of a TCP connection overtake data that is not sent (SO_LINGER, socket(7)).

    The end of the connection ends the process. Behind data that the process does not take the
    runtime would not see it.
    """
    if stream.family != socket.AF_UNIX:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", wanted, 0))
