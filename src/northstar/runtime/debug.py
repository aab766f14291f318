"""Debug commands: run for every container that starts, such as `strace -p <PID>`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from northstar.model import Container
from northstar.runtime.logs import for_container

log = logging.getLogger("northstar.runtime")

_LINE_MAX: Final = 64 * 1024

_running: set[asyncio.Task[None]] = set()
"""Held here, since the event loop keeps only weak references to tasks."""


async def run_commands(commands: Sequence[str], pid: int, container: Container) -> None:
    """Spawn each command, with `<PID>` and `<CONTAINER>` replaced; they outlive the start.

    Args:
        commands: split at white space, without a shell.
        pid: the container's init.
        container: the container, whose name their output is logged under.
    """
    for command in commands:
        words = command.replace("<PID>", str(pid)).replace("<CONTAINER>", str(container)).split()
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LINE_MAX,
            )
        except (OSError, ValueError) as failure:
            log.warning("Cannot run the debug command %r for %s: %s", command, container, failure)
            continue
        task = asyncio.create_task(_log_output(process, container))
        _running.add(task)
        task.add_done_callback(_running.discard)


async def _log_output(process: asyncio.subprocess.Process, container: Container) -> None:
    assert process.stdout is not None
    output = for_container(container)
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            # Longer than the limit: the reader has dropped what it had of it.
            continue
        if not line:
            break
        output.info("%s", line.decode(errors="backslashreplace").rstrip("\n"))
    await process.wait()
