"""Debug commands: run for every container that starts, such as `strace -p <PID>`.

They may outlive their container, but not the runtime: they run in its mount namespace and keep its
mounts busy. So each has a supervisor, which ends it with all its descendants when the runtime ends
or is killed (`Launcher.supervise`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Final

from northstar.launch.launcher import Launcher
from northstar.linux import pidfd
from northstar.model import Container
from northstar.runtime.pipe_output import PipeOutput
from northstar.runtime.stdio import LineSink

log = logging.getLogger("northstar.runtime")

_TERM_TIMEOUT: Final = 1.0
"""Seconds between SIGTERM and SIGKILL when the runtime ends."""
_KILL_TIMEOUT: Final = 1.0
"""Seconds that the shutdown waits after SIGKILL."""

_MESSAGE: Final = struct.Struct("<I")
"""A message to a supervisor (a signal number) or from it (an errno)."""


class _Command:
    """A command with its supervisor, which is a child of the runtime until it is reaped.

    Attributes:
        ended: done when the command and all of its descendants have ended.
    """

    def __init__(self, line: str, container: Container, pid: int, stream: socket.socket) -> None:
        """Own a supervisor; `Launcher.supervise` returned `pid` and `stream`."""
        self._line = line
        self._container = container
        self._pid = pid
        self._stream = stream
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def watch(self) -> None:
        """Watch for the end of the command.

        Raises:
            OSError: no descriptor is available, or it cannot be watched.
        """
        self._pidfd = pidfd.open(self._pid)
        self._loop.add_reader(self._pidfd, self._on_end)

    def terminate(self) -> None:
        """Send SIGTERM to the command."""
        with contextlib.suppress(OSError):  # the command has just ended
            self._stream.send(_MESSAGE.pack(signal.SIGTERM))

    def kill(self) -> None:
        """Send SIGKILL to the command and its descendants; `ended` is done when they have ended."""
        self._stream.close()

    def discard(self) -> None:
        """Kill and reap. Blocks until all processes have ended."""
        self._stream.close()
        os.waitpid(self._pid, 0)
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        _running.discard(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def _on_end(self) -> None:
        with contextlib.suppress(OSError):  # there is no message, or the stream is closed
            message = self._stream.recv(_MESSAGE.size)
            if len(message) == _MESSAGE.size:
                _warn(self._line, self._container, os.strerror(*_MESSAGE.unpack(message)))
        self.discard()


_running: set[_Command] = set()


def run_commands(
    launcher: Launcher, commands: Sequence[str], pid: int, container: Container
) -> None:
    """Spawn each command, with `<PID>` and `<CONTAINER>` replaced. A failure is a warning.

    Args:
        launcher: spawns the supervisors.
        commands: are split at white space, without a shell.
        pid: pid of the container's init.
        container: their output is logged at info, under its name.
    """
    for line in commands:
        words = line.replace("<PID>", str(pid)).replace("<CONTAINER>", str(container)).split()
        if not words:
            _warn(line, container, "it is empty")
            continue
        try:
            _spawn(launcher, line, words, container)
        except OSError as failure:
            _warn(line, container, failure.strerror or str(failure))


async def end_all() -> None:
    """End all commands at the end of the runtime: SIGTERM, then SIGKILL."""
    for command in tuple(_running):
        command.terminate()
    await _wait(_TERM_TIMEOUT)
    for command in tuple(_running):
        command.kill()
    await _wait(_KILL_TIMEOUT)
    if _running:
        log.warning("%d debug commands could not be ended", len(_running))


async def _wait(seconds: float) -> None:
    if _running:
        await asyncio.wait([command.ended for command in _running], timeout=seconds)


def _spawn(launcher: Launcher, line: str, words: Sequence[str], container: Container) -> None:
    # Not asyncio's subprocesses: asyncio waits for each in a thread. If no thread can be started,
    # the end of the command is never noticed.
    with contextlib.ExitStack() as undo:
        reader, writer = os.pipe()
        undo.callback(os.close, reader)
        try:
            pid, stream = launcher.supervise(words, writer)
        finally:
            os.close(writer)
        command = _Command(line, container, pid, stream)
        undo.callback(command.discard)
        command.watch()
        PipeOutput(reader, LineSink(container, logging.INFO))
        undo.pop_all()
    _running.add(command)


def _warn(line: str, container: Container, reason: str) -> None:
    log.warning("Cannot run the debug command %r for %s: %s", line, container, reason)
