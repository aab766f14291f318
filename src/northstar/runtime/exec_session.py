"""Connects an exec'ed process with its client, until the process has ended.

Each direction is held up by its reader: output is read only while the client reads, and the next
message of the client is received only when the process has taken the data of the last one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from signal import SIGHUP, SIGKILL
from typing import TYPE_CHECKING, Final, Protocol

from northstar.api.stream import (
    DATA_MAX,
    Resize,
    Signal,
    Stderr,
    Stdin,
    StdinEnd,
    Stdout,
)
from northstar.model import ExitStatus

if TYPE_CHECKING:
    from northstar.runtime.console.channel import Channel

KILL_DELAY: Final = 1.0
"""Seconds from SIGHUP to SIGKILL after the end of the connection."""

_TERMINAL_DELAY: Final = 0.5
"""Longest time, in seconds, in which the kernel delivers the last output of a terminal."""

_TERMINAL_MAX: Final = 2**20
"""Most bytes of it: the kernel buffers less, but other processes may still write."""

_CHARACTERS: Final = 6
"""The index of the control characters in the result of `termios.tcgetattr`."""

Output = type[Stdout] | type[Stderr]


class Process(Protocol):
    """An exec'ed process: see `runtime.exec.ExecProcess`."""

    stdin: int
    stdout: int
    stderr: int
    exited: asyncio.Future[ExitStatus]

    def signal(self, number: int) -> None:
        """Send a signal to its process group; no error if it has ended."""

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, if it has one."""

    def close_stdin(self) -> None:
        """Close its input, unless that is a terminal."""

    async def close(self) -> None:
        """Kill it if it runs, and close all descriptors."""


async def converse(process: Process, channel: Channel) -> ExitStatus:
    """Forward input and output until the process has ended; return its status after all output.

    What other processes write to its output later is not awaited. The end of the connection ends
    the process.

    Args:
        process: the process, which is closed.
        channel: the channel of its request.
    """
    ending = _Ending(process)
    channel.on_end(ending.begin)
    try:
        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(_take_input(process, channel))
            outputs = [
                (descriptor, kind, tasks.create_task(_send_output(descriptor, kind, channel)))
                for descriptor, kind in _outputs(process)
            ]
            status = await asyncio.shield(process.exited)
            taking.cancel()
            for descriptor, kind, sending in outputs:
                await _finish(sending)
                # A process that has the other end open may go on writing for ever.
                await _send_rest(descriptor, kind, channel, terminal=descriptor == process.stdin)
        return status
    finally:
        ending.cancel()
        await process.close()


class _Ending:
    """Ends a process whose client is gone: SIGHUP, and SIGKILL after `KILL_DELAY`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if self._process.exited.done():
            return
        self._process.signal(SIGHUP)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(KILL_DELAY, self._process.signal, SIGKILL)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _outputs(process: Process) -> list[tuple[int, Output]]:
    outputs: list[tuple[int, Output]] = [(process.stdout, Stdout), (process.stderr, Stderr)]
    return [(descriptor, kind) for descriptor, kind in outputs if descriptor >= 0]


# Output.


async def _send_output(descriptor: int, kind: Output, channel: Channel) -> None:
    """Send what a descriptor yields, until its end."""
    while True:
        await channel.writable()
        data = _read(descriptor, DATA_MAX)
        if data is None:
            await _readable(descriptor)
        elif not data:
            return
        else:
            channel.send(kind(data))
            # A process that writes without pause must not keep others from being served.
            await asyncio.sleep(0)


async def _send_rest(descriptor: int, kind: Output, channel: Channel, *, terminal: bool) -> None:
    """Send the output of a process that has ended; its descriptor yields it, and maybe more.

    A pipe contains it already. A terminal may deliver the last of it a moment later.
    """
    left = _TERMINAL_MAX if terminal else _available(descriptor)
    while left > 0:
        await channel.writable()
        data = _read(descriptor, min(left, DATA_MAX))
        if data:
            channel.send(kind(data))
            left -= len(data)
            await asyncio.sleep(0)
        elif data is None and terminal:
            try:
                async with asyncio.timeout(_TERMINAL_DELAY):
                    await _readable(descriptor)
            except TimeoutError:
                return
        else:
            return


def _read(descriptor: int, most: int) -> bytes | None:
    """Return bytes, none at the end of the output, None if there are none yet."""
    try:
        return os.read(descriptor, most)
    except BlockingIOError:
        return None
    except OSError:
        # The master of a terminal whose other end is closed: EIO, pty(7).
        return b""


def _available(descriptor: int) -> int:
    """Return the number of bytes in a pipe (FIONREAD, pipe(7))."""
    packed = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", packed)[0])


# Input.


async def _take_input(process: Process, channel: Channel) -> None:
    """Give the client's messages to the process."""
    while (message := await channel.receive()) is not None:
        match message:
            case Stdin(data):
                await _write(process, data)
            case StdinEnd():
                await _end_input(process)
            case Resize(rows, columns):
                process.resize(rows, columns)
            case Signal(number):
                process.signal(number)
        # `receive` does not wait while messages are there: other connections must be served.
        await asyncio.sleep(0)


async def _end_input(process: Process) -> None:
    """Close the pipe. Of a terminal send the character that ends its input, see termios(3)."""
    if process.stdin < 0 or process.stdin != process.stdout:
        process.close_stdin()
        return
    characters = termios.tcgetattr(process.stdin)[_CHARACTERS]
    await _write(process, characters[termios.VEOF])


async def _write(process: Process, data: bytes) -> None:
    """Write all data, as the process reads it. After it has closed its input, it is dropped."""
    rest = memoryview(data)
    while rest and process.stdin >= 0:
        try:
            rest = rest[os.write(process.stdin, rest) :]
        except BlockingIOError:
            await _writable(process.stdin)
        except OSError:
            # EPIPE, or EIO for a terminal: as a shell's `yes | true`, this is no error.
            return


# Readiness.


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    await _ready(descriptor, loop.add_reader, loop.remove_reader)


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    await _ready(descriptor, loop.add_writer, loop.remove_writer)


async def _ready(
    descriptor: int,
    add: Callable[[int, Callable[[], None]], object],
    remove: Callable[[int], object],
) -> None:
    ready = asyncio.get_running_loop().create_future()

    def found() -> None:
        if not ready.done():
            ready.set_result(None)

    add(descriptor, found)
    try:
        await ready
    finally:
        remove(descriptor)


async def _finish(task: asyncio.Task[None]) -> None:
    """End a task that waits; it has sent all that it has read."""
    task.cancel()
    await asyncio.wait([task])
