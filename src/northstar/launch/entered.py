"""The runtime's handle of a process that was executed in a running container.

`enter` spawns a copy of the C program with an exec plan (launcher/enter.c). Its launcher, a child
of the runtime, is the parent of the process. It reports FORKED; the runtime opens a pidfd and sends
GO; then STARTED, and EXITED at the end. FAILED may come instead of each. The launcher reaps the
process when the runtime closes the stream, and exits after its last child.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Mapping
from errno import ESRCH
from typing import Final

from northstar.launch.launcher import (
    REPORT_HEAD,
    STEPS,
    Launcher,
    exit_status,
    send_plan,
)
from northstar.launch.plan import LaunchPlan
from northstar.launch.plan_ops import GO, NO_OPERATION, TEXT_MAX, Report, Step
from northstar.launch.serving import reap
from northstar.linux import pidfd, procfs
from northstar.model import Container, ExitStatus, LaunchError, Signalled

_AFTER: Final = {
    Report.FORKED: {Report.STARTED, Report.FAILED},
    Report.STARTED: {Report.EXITED},
}
"""The reports that may follow each report; none follow the others."""

_PAUSE: Final = 0.1
"""Seconds until children of a launcher that does not end are killed, and again."""

log = logging.getLogger("northstar.launch")


def enter(
    launcher: Launcher, plan: LaunchPlan, descriptors: Mapping[str, int], container: Container
) -> Entered:
    """Execute a process in a running container; the returned `Entered` reports the progress.

    Args:
        launcher: the C program.
        plan: of `exec_plan.build`.
        descriptors: by the names of `plan.descriptors`; the caller keeps and closes them.
        container: for errors.

    Raises:
        OSError: the launcher could not be spawned or watched.
        LaunchError: it ended before it received the plan.
    """
    stream, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.enter_context(stream)
        with child_end:
            stream.setblocking(False)
            pid = launcher.spawn_copy(child_end)
        try:
            entered = Entered(stream, pid, launcher, plan, container)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            reap(pid)
            raise
        undo.pop_all()
    try:
        send_plan(stream, plan, descriptors)
    except BaseException as failure:
        # Without a plan the launcher exits at the end of the stream.
        entered.end()
        if isinstance(failure, (BrokenPipeError, ConnectionResetError)):
            step = f"enter {container}"
            raise LaunchError(step, reason="its launcher has ended before") from None
        raise
    return entered


class Entered:
    """A process in a running container, from its launcher's spawn to the end of the launcher.

    Attributes:
        pid: of the process, on the host; 0 before it is forked.
        started: done when its execve(2) has succeeded; fails with LaunchError.
        exited: done with its status when it is reaped, and its launcher too; never fails.
    """

    def __init__(
        self,
        stream: socket.socket,
        launcher_pid: int,
        launcher: Launcher,
        plan: LaunchPlan,
        container: Container,
    ) -> None:
        """Watch a launcher that was just spawned; takes ownership of `stream` and of the process.

        Raises:
            OSError: it cannot be watched; the caller still owns both.
        """
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._launcher_pid = launcher_pid
        self._executor = launcher.executor
        self._plan = plan
        self._container = container
        self._pidfd = -1
        self._status: ExitStatus | None = None
        self._expected: set[Report] = {Report.FORKED, Report.FAILED}
        self._timer: asyncio.TimerHandle | None = None
        self.pid = 0
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.exited: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._launcher_pidfd = pidfd.open(launcher_pid)
        try:
            self._loop.add_reader(self._launcher_pidfd, self._on_launcher_end)
            try:
                self._loop.add_reader(stream.fileno(), self._on_report)
            except BaseException:
                self._loop.remove_reader(self._launcher_pidfd)
                raise
        except BaseException:
            os.close(self._launcher_pidfd)
            raise

    def signal(self, number: int) -> None:
        """Send a signal to its process group; no error if the process has ended.

        Raises:
            OSError: EINVAL for a number that is no signal.
        """
        if self._pidfd >= 0 and self._status is None and self.started.done():
            with contextlib.suppress(ProcessLookupError):
                pidfd.send_group_signal(self._pidfd, self.pid, number)

    def end(self) -> None:
        """Kill its process group, and make the launcher end; then `exited` is done. Idempotent."""
        self.signal(signal.SIGKILL)
        self._kill()
        self._close_stream()

    def _kill(self) -> None:
        # Also before the execve, when it is in no group of its own yet.
        if self._pidfd >= 0 and self._status is None:
            with contextlib.suppress(ProcessLookupError):
                pidfd.send_signal(self._pidfd, signal.SIGKILL)

    def _on_report(self) -> None:
        while self._stream.fileno() >= 0:
            try:
                data = self._stream.recv(REPORT_HEAD.size + TEXT_MAX)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self._close_stream()  # the launcher has ended, or is about to
                return
            try:
                self._handle(data)
            except (ValueError, IndexError, struct.error) as error:
                log.error("Ending a process in %s: invalid report %r", self._container, error)
                self.end()

    def _handle(self, data: bytes) -> None:
        """Process a report.

        Raises:
            ValueError, IndexError, struct.error: the report is unexpected or invalid.
        """
        kind, index, op, errno, value = REPORT_HEAD.unpack_from(data)
        text = data[REPORT_HEAD.size :].split(b"\0", 1)[0].decode(errors="backslashreplace")
        report = Report(kind)
        if report not in self._expected:
            raise ValueError(f"unexpected {report.name}")
        match report:
            case Report.FORKED:
                self._adopt(value)
            case Report.STARTED:
                if not self.started.done():
                    self.started.set_result(None)
            case Report.EXITED:
                self._status = exit_status(op, value)
                self._close_stream()  # the launcher may reap it now: no signal is sent any more
            case Report.FAILED:
                self._fail(self._failure(index, op, errno, value, text))
                self._close_stream()
        self._expected = _AFTER.get(report, set())

    def _adopt(self, pid: int) -> None:
        """Open a pidfd of the process, and let it continue."""
        try:
            self._pidfd = pidfd.open(pid)
            # Only the launcher reaps it, and not before GO. If the launcher still exists, it
            # existed all the time, and the pid was not reused.
            if self._launcher_has_ended():
                os.close(self._pidfd)
                self._pidfd = -1
                raise ProcessLookupError(ESRCH, os.strerror(ESRCH))
        except OSError as failure:
            step = f"watch a process in {self._container}"
            self._fail(LaunchError(step, errno=failure.errno or 0))
            self._close_stream()
            return
        self.pid = pid
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._stream.send(struct.pack("<I", GO))

    def _launcher_has_ended(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._launcher_pid, flags) is not None

    def _failure(self, index: int, op: int, errno: int, killed_by: int, text: str) -> LaunchError:
        """Return the error that a report FAILED describes."""
        container = self._container
        reason = f"it was ended by signal {killed_by}" if killed_by else os.strerror(errno)
        if index == NO_OPERATION:
            step = f"{STEPS[Step(op)]} in {container}"
            if op == Step.FORK:
                step, text = f"fork in {container}", ""
            elif op == Step.HELPER:
                step = f"enter {container}"
        else:
            step = f"{self._plan.operations[index].describe()} in {container}"
        error = LaunchError(step, reason=f"{text}: {reason}" if text else reason)
        error.errno = errno
        return error

    def _fail(self, error: LaunchError) -> None:
        if not self.started.done():
            self.started.set_exception(error)
            self.started.exception()  # nobody may await it

    def _close_stream(self) -> None:
        """Make the launcher end: it kills and reaps all its children. Idempotent."""
        if self._stream.fileno() < 0:
            return
        self._loop.remove_reader(self._stream.fileno())
        self._stream.close()
        self._timer = self._loop.call_later(_PAUSE, self._kill_children)

    def _kill_children(self) -> None:
        """Kill what the launcher is not permitted to kill: processes of another user (CAP_SETUID).

        They are its children if the process has cloned them with CLONE_PARENT.
        """
        self._timer = self._loop.call_later(_PAUSE, self._kill_children)
        held = os.dup(self._launcher_pidfd)
        try:
            killing = self._loop.run_in_executor(
                self._executor, kill_children, self._launcher_pid, held
            )
        except BaseException:
            os.close(held)
            raise

        def killed(done: asyncio.Future[None]) -> None:
            os.close(held)
            if not done.cancelled() and done.exception() is not None:
                log.error("Cannot end a process in %s: %s", self._container, done.exception())

        killing.add_done_callback(killed)

    def _on_launcher_end(self) -> None:
        self._on_report()  # its last reports are still in the socket
        self._close_stream()
        if self._timer is not None:
            self._timer.cancel()
        self._kill()  # only if the launcher was killed
        self._loop.remove_reader(self._launcher_pidfd)
        os.close(self._launcher_pidfd)
        ended = reap(self._launcher_pid)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._fail(
            LaunchError(f"enter {self._container}", reason=f"its launcher ended with {ended}")
        )
        if not self.exited.done():
            self.exited.set_result(self._status or Signalled(signal.SIGKILL))


def kill_children(parent: int, parent_pidfd: int) -> None:
    """Kill all children of a child of this process. Blocks.

    Args:
        parent: its pid.
        parent_pidfd: its pidfd. If it is not reaped after a process was found to be its child, the
            pid was not reused before.
    """
    for pid in procfs.children(parent):
        with contextlib.suppress(ProcessLookupError):
            held = pidfd.open(pid)
            try:
                if procfs.parent_of(pid) == parent:
                    pidfd.send_signal(parent_pidfd, 0)
                    pidfd.send_signal(held, signal.SIGKILL)
            finally:
                os.close(held)
