"""Executes more processes in a running container: `nstar exec`, and probes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from northstar.api import RefusedError, error
from northstar.launch import exec_plan
from northstar.launch.entered import Entered, enter
from northstar.launch.plan import NAMESPACES, tasks_descriptor
from northstar.launch.seccomp import Filter
from northstar.linux import pty
from northstar.manifest import Manifest
from northstar.model import ExitStatus, LaunchError
from northstar.runtime.null_device import reopen
from northstar.runtime.running import RunningContainer
from northstar.runtime.start import StartContext, seccomp_filter
from northstar.runtime.terminal import Pty, open_terminal

MOST: Final = 8
"""Most exec'ed processes in one container at once."""


class Terminal(NamedTuple):
    """The size of a terminal."""

    rows: int
    columns: int


class ExecProcess:
    """A process that was executed in a running container.

    Attributes:
        stdin: the write end of its stdin, not blocking; -1 if that is the null device, or after
            `close_stdin`. With a terminal: the master.
        stdout: the read end of its stdout, not blocking. With a terminal: the master, the same
            descriptor; reading it fails with EIO when no process has the terminal open.
        stderr: the read end of its stderr, not blocking; -1 with a terminal and with merged output.
        exited: done with its status when it is reaped; never fails. The end of the container ends
            it with SIGKILL. Output may still wait in the pipes.
    """

    def __init__(self, held: list[ExecProcess]) -> None:
        """Take one of the places of a container, until `exited` is done or `give_up`."""
        self.stdin = self.stdout = self.stderr = -1
        self.exited: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._entered: Entered | None = None
        self._held = held
        self._terminal = False
        held.append(self)

    def signal(self, number: int) -> None:
        """Send a signal to its process group; no error if the process has ended.

        Raises:
            OSError: EINVAL for a number that is no signal.
        """
        if self._entered is not None:
            self._entered.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, 0..65535; nothing happens without one, or after `close`.

        Raises:
            struct.error: a number is out of range.
        """
        if self._terminal and self.stdout >= 0:
            pty.set_size(self.stdout, rows, columns)

    def close_stdin(self) -> None:
        """Close its stdin; idempotent. A terminal stays open: there ^D is the end, termios(3)."""
        if self.stdin >= 0 and not self._terminal:
            os.close(self.stdin)
            self.stdin = -1

    def start(self, entered: Entered) -> None:
        """Adopt the process that was launched for this object."""
        self._entered = entered
        entered.exited.add_done_callback(self._ended)

    def adopt_terminal(self, master: int) -> None:
        """Take ownership of its terminal's master."""
        self.stdin = self.stdout = master
        self._terminal = True
        os.set_blocking(master, False)

    async def end(self) -> None:
        """Kill its process group if the process still runs, and wait until it is reaped."""
        if self._entered is not None:
            if not self._entered.exited.done():
                self._entered.end()
            await asyncio.shield(self._entered.exited)
        self._leave()

    async def close(self) -> None:
        """End it, and close all descriptors; idempotent."""
        try:
            await self.end()
        finally:
            for descriptor in {self.stdin, self.stdout, self.stderr} - {-1}:
                os.close(descriptor)
            self.stdin = self.stdout = self.stderr = -1

    def _leave(self) -> None:
        with contextlib.suppress(ValueError):
            self._held.remove(self)

    def _ended(self, exited: asyncio.Future[ExitStatus]) -> None:
        self._leave()
        if not self.exited.done():
            self.exited.set_result(exited.result())


async def execute(
    context: StartContext,
    running: RunningContainer,
    manifest: Manifest,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: bool = False,
    terminal: Terminal | None = None,
    merge_output: bool = False,
    counted: bool = True,
) -> ExecProcess:
    """Execute a process in a running container, with exactly the rights of its payload.

    Args:
        context: what every start uses.
        running: the container.
        manifest: its manifest.
        command: argv; the first is a path in the container.
        environment: set over the manifest's.
        stdin: its stdin is a pipe, else the null device.
        terminal: its stdin, stdout and stderr are a terminal of this size.
        merge_output: stderr goes into the pipe of stdout.
        counted: it counts for `MOST`, and is refused if there are so many.

    Returns:
        The process, after its execve(2); the caller closes it.

    Raises:
        RefusedError: the container has ended, or has too many such processes.
        LaunchError: the process could not be executed.
        HostError, OSError: the host lacks something.
    """
    container = running.container
    _refuse_ended(running)
    execs = running.held.execs if counted else []
    if len(execs) >= MOST:
        raise RefusedError(error.Unexpected(f"{container} has {MOST} exec'ed processes already"))
    process = ExecProcess(execs)
    try:
        system_calls = await seccomp_filter(context, manifest)
        with ExitStack() as passed:
            if terminal is not None:
                streams = await _open_terminal(context, manifest, terminal, process, passed)
            else:
                streams = _open_pipes(context, process, passed, stdin=stdin, merge=merge_output)
            _refuse_ended(running)
            descriptors = streams | _open_container(context, running, system_calls, passed)
            plan = exec_plan.build(
                manifest,
                command,
                environment,
                context.facts,
                running.held.groups,
                namespaces=[
                    name
                    for name in NAMESPACES
                    if exec_plan.namespace_descriptor(name) in descriptors
                ],
                terminal=terminal is not None,
            )
            entered = enter(context.launcher, plan, descriptors, container)
        process.start(entered)
        await _started(entered, running, manifest)
    except BaseException:
        await process.close()
        raise
    return process


async def _started(entered: Entered, running: RunningContainer, manifest: Manifest) -> None:
    """Wait for the execve(2).

    Raises:
        LaunchError: it failed, with the limit of processes if that may be the reason.
        RefusedError: the container has ended meanwhile.
    """
    try:
        await asyncio.shield(entered.started)
    except LaunchError as failure:
        _refuse_ended(running)
        pids = manifest.cgroups.pids if manifest.cgroups is not None else None
        if failure.errno == errno.EAGAIN and failure.step.startswith("fork ") and pids is not None:
            reason = f"{os.strerror(errno.EAGAIN)} (its pids limit is {pids.max})"
            raise LaunchError(failure.step, reason=reason) from None
        raise


def _refuse_ended(running: RunningContainer) -> None:
    # init is reaped in the event loop's thread, which sets `exited`. Before that /proc/PID is its.
    if running.exited.done():
        raise RefusedError(error.StopContainerNotStarted(running.container))


async def _open_terminal(
    context: StartContext,
    manifest: Manifest,
    size: Terminal,
    process: ExecProcess,
    passed: ExitStack,
) -> dict[str, int]:
    context.own.run_dir.restore()
    opening = asyncio.wrap_future(
        context.pools.kernel.submit(
            open_terminal, context.own.run_dir.path, manifest.uid, manifest.gid, *size
        )
    )
    try:
        opened = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_terminal)  # the thread continues
        raise
    passed.callback(os.close, opened.slave)
    process.adopt_terminal(opened.master)
    return dict.fromkeys(("stdin", "stdout", "stderr"), opened.slave)


def _close_terminal(opening: asyncio.Future[Pty]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        for descriptor in opening.result():
            os.close(descriptor)


def _open_pipes(
    context: StartContext, process: ExecProcess, passed: ExitStack, *, stdin: bool, merge: bool
) -> dict[str, int]:
    """Return the process's ends, which `passed` closes; the others are in `process`."""

    def pipe() -> tuple[int, int]:
        return os.pipe2(os.O_CLOEXEC)

    def later(descriptor: int) -> int:
        passed.callback(os.close, descriptor)
        return descriptor

    streams = {}
    if stdin:
        streams["stdin"], process.stdin = pipe()
        later(streams["stdin"])
        os.set_blocking(process.stdin, False)
    else:
        streams["stdin"] = later(reopen(context.null))
    process.stdout, streams["stdout"] = pipe()
    later(streams["stdout"])
    os.set_blocking(process.stdout, False)
    if merge:
        streams["stderr"] = streams["stdout"]
    else:
        process.stderr, streams["stderr"] = pipe()
        later(streams["stderr"])
        os.set_blocking(process.stderr, False)
    return streams


def _open_container(
    context: StartContext,
    running: RunningContainer,
    system_calls: Filter | None,
    passed: ExitStack,
) -> dict[str, int]:
    """Open the container's cgroups, namespaces and filter; `passed` closes them.

    Raises:
        OSError: one cannot be opened.
        RefusedError: init has ended, and is not reaped yet.
    """

    def opened() -> Iterator[tuple[str, int]]:
        if context.facts.into_cgroup:
            yield exec_plan.PROCS, running.cgroup.open_procs()
        for number in range(context.facts.joins):
            yield tasks_descriptor(number), running.cgroup.open_tasks(number)
        for name in NAMESPACES:
            try:
                namespace = os.open(f"/proc/{running.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if name == "cgroup":  # a kernel without cgroups
                    continue
                raise RefusedError(error.StopContainerNotStarted(running.container)) from None
            yield exec_plan.namespace_descriptor(name), namespace
        if system_calls is not None:
            yield "seccomp", system_calls.open()

    found = {}
    for name, descriptor in opened():
        passed.callback(os.close, descriptor)
        found[name] = descriptor
    return found
