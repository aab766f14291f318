"""Probes that execute a program in a container: success is exit code 0.

What the program leaves running belongs to the container. It is not waited for, and may keep the
output open.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import os
from collections.abc import Sequence
from typing import Final

from northstar.api import RefusedError, error
from northstar.core.verdict import exit_reason
from northstar.manifest import Manifest, RlimitResource
from northstar.model import (
    Container,
    Exited,
    ExitStatus,
    HostError,
    LaunchError,
    NorthstarError,
    printable,
    sentence,
)
from northstar.model.loop_deadline import wait
from northstar.runtime.exec import execute
from northstar.runtime.probe_results import LACKING, EndedError, FailedError, LackingError
from northstar.runtime.running import RunningContainer
from northstar.runtime.start import StartContext

REASON_MAX: Final = 200
"""Bytes of the output that become the reason of a failure."""

_TIMEOUT: Final = "timeout"

_CHUNK: Final = 2**16
_PAUSE: Final = 0.01
"""Bytes that are read, and then discarded, before the next pause of so many seconds. The output of
a probe must cost the probe more than the runtime."""

_END: Final = 1.0
"""Seconds that a probe waits for the end of a killed process. A frozen one does not end."""


class ExecProbes:
    """Executes probes; at most one process of them exists in each container."""

    def __init__(self, context: StartContext) -> None:
        """Execute with what every start uses."""
        self._context = context
        self._tasks: dict[Container, asyncio.Task[ExitStatus]] = {}

    async def run(
        self,
        running: RunningContainer,
        manifest: Manifest,
        command: Sequence[str],
        seconds: float,
    ) -> None:
        """Execute a program in a container; return if it exits with code 0 in time.

        Raises:
            FailedError: it does not, or the container does not let it be executed.
            LackingError: the runtime cannot execute it.
            EndedError: the container has ended.
        """
        container = running.container
        output = Output()
        earlier = self._tasks.get(container)
        if earlier is not None:
            # It was killed, and has not ended yet.
            _, left = await wait((earlier,), seconds)
            if left:
                raise FailedError(f"{_TIMEOUT}: the process of an earlier probe does not end")
        task = asyncio.create_task(self._execute(running, manifest, command, output))
        self._tasks[container] = task
        task.add_done_callback(lambda task: self._ended(container, task))
        try:
            done, _ = await wait((task,), seconds)
        except BaseException:
            task.cancel()
            raise
        if not done:
            task.cancel()
            await asyncio.wait((task,), timeout=_END)
            raise FailedError(reason_of(_TIMEOUT, output.kept))
        status = task.result()
        if status != Exited(0):
            raise FailedError(reason_of(exit_reason(status, oom=False), output.kept))

    def holds(self, container: Container) -> bool:
        """Return whether a container has a process of a probe, so that `ended` waits."""
        return container in self._tasks

    async def ended(self, container: Container) -> None:
        """Wait until a container that has exited has no process of a probe any more."""
        task = self._tasks.get(container)
        if task is not None:
            await asyncio.wait((task,))

    def _ended(self, container: Container, task: asyncio.Task[ExitStatus]) -> None:
        if self._tasks.get(container) is task:
            del self._tasks[container]
        if not task.cancelled():
            task.exception()  # after a timeout nothing awaits it

    async def _execute(
        self,
        running: RunningContainer,
        manifest: Manifest,
        command: Sequence[str],
        output: Output,
    ) -> ExitStatus:
        try:
            process = await execute(
                self._context, running, manifest, command, {}, merge_output=True, counted=False
            )
        except (NorthstarError, RefusedError, OSError) as failure:
            raise attributed(failure, manifest) from failure
        try:
            output.begin(process.stdout)
            # A future that is awaited would be cancelled with this task.
            status = await asyncio.shield(process.exited)
            output.finish()
        finally:
            output.stop()
            await process.close()
        return status


def attributed(failure: Exception, manifest: Manifest) -> FailedError | LackingError | EndedError:
    """Return the result for a program that could not be executed."""
    reason = printable(sentence(failure))
    if isinstance(failure, RefusedError):
        if isinstance(failure.error, error.StopContainerNotStarted):
            return EndedError()
        return LackingError(reason)
    if isinstance(failure, (HostError, OSError)):
        return LackingError(reason)
    if isinstance(failure, LaunchError):
        if failure.step.startswith("fork "):
            # In the container's cgroups and with its limits: by one of them, or by the host's.
            lacking = failure.errno in (errno.EAGAIN, errno.ENOMEM) and not _limits(manifest)
        else:
            # The descriptors of the launcher are the runtime's. It is not of the container before
            # it has entered it.
            lacking = failure.errno in LACKING or failure.step.startswith(("enter ", "watch "))
        if lacking:
            return LackingError(reason)
    return FailedError(reason)


def _limits(manifest: Manifest) -> bool:
    """Return whether a manifest limits the processes or the memory of its container."""
    cgroups = manifest.cgroups
    by_cgroup = cgroups is not None and (cgroups.pids is not None or cgroups.memory is not None)
    return by_cgroup or RlimitResource.NPROC in manifest.rlimits


def reason_of(end: str, output: bytes) -> str:
    """Return one printable line: how a probe has ended, and the beginning of its output."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    # A character that was cut is left out.
    text = decoder.decode(output, final=len(output) < REASON_MAX)
    text = printable(" ".join(text.split()))
    return f"{end}: {text}" if text else end


class Output:
    """Reads the output of a probe: its beginning is kept, the rest discarded, at a limited rate.

    Attributes:
        kept: the first `REASON_MAX` bytes.
    """

    def __init__(self) -> None:
        self.kept = b""
        self._loop = asyncio.get_running_loop()
        self._descriptor = -1
        self._pause: asyncio.TimerHandle | None = None
        self._read_since_pause = 0

    def begin(self, descriptor: int) -> None:
        """Read a descriptor, which does not block, until `stop`.

        Raises:
            LackingError: it cannot be watched.
        """
        try:
            self._loop.add_reader(descriptor, self._read)
        except OSError as failure:
            raise LackingError(f"cannot watch the output: {failure.strerror}") from failure
        self._descriptor = descriptor

    def finish(self) -> None:
        """Read what was written before the end of the program, as far as it is kept."""
        while self._descriptor >= 0 and len(self.kept) < REASON_MAX and self._receive():
            pass

    def stop(self) -> None:
        """Stop reading; idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        size = self._receive()
        if size == 0:
            self.stop()
        self._read_since_pause += size or 0
        if self._read_since_pause >= _CHUNK:
            self._read_since_pause = 0
            self._loop.remove_reader(self._descriptor)
            self._pause = self._loop.call_later(_PAUSE, self._resume)

    def _receive(self) -> int | None:
        """Read once. Return the number of bytes, 0 at the end, None if nothing is there."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return None
        self.kept += data[: REASON_MAX - len(self.kept)]
        return len(data)

    def _resume(self) -> None:
        self._pause = None
        # ENOMEM, ENOSPC: the program may block, until the time for the probe is over.
        with contextlib.suppress(OSError):
            self._loop.add_reader(self._descriptor, self._read)
