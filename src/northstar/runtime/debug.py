"""Debug commands: run for every container that starts, such as `strace -p <PID>`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Sequence

from northstar.linux import pidfd
from northstar.model import Container
from northstar.runtime.stdio import LineSink, OutputPipe

log = logging.getLogger("northstar.runtime")

_running: dict[int, subprocess.Popen[bytes]] = {}
"""What was not reaped yet, by pidfd."""


def run_commands(commands: Sequence[str], pid: int, container: Container) -> None:
    """Spawn each command, with `<PID>` and `<CONTAINER>` replaced; they outlive the container.

    Args:
        commands: split at white space, without a shell.
        pid: the container's init.
        container: the container, whose name their output is logged under, at info.
    """
    for command in commands:
        words = command.replace("<PID>", str(pid)).replace("<CONTAINER>", str(container)).split()
        try:
            _spawn(words, container)
        except (OSError, ValueError) as failure:
            log.warning("Cannot run the debug command %r for %s: %s", command, container, failure)


def end_all() -> None:
    """Ask what still runs to end (SIGTERM): the runtime ends."""
    for descriptor in tuple(_running):
        pidfd.send_signal(descriptor, signal.SIGTERM)
        _forget(descriptor)


def _spawn(words: Sequence[str], container: Container) -> None:
    # Not asyncio's subprocesses: each has a thread that waits for its end, and where no thread can
    # be had the command runs, and nobody knows of it.
    with contextlib.ExitStack() as undo:
        reader, writer = os.pipe()
        undo.callback(os.close, reader)
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.STDOUT
            )
        finally:
            os.close(writer)
        undo.callback(process.wait)
        undo.callback(process.kill)
        descriptor = pidfd.open(process.pid)
        undo.callback(os.close, descriptor)
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, _ended, descriptor)
        undo.callback(loop.remove_reader, descriptor)
        OutputPipe(reader, LineSink(container, logging.INFO))
        undo.pop_all()
    _running[descriptor] = process


def _ended(descriptor: int) -> None:
    _running[descriptor].wait()
    _forget(descriptor)


def _forget(descriptor: int) -> None:
    del _running[descriptor]
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)
