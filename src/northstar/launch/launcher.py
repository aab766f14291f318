"""Runs a launch plan with the C program, and decodes its reports into values and errors.

The sequence of a launch: `Launcher.launch` sends the plan, the descriptors and one end of a
SOCK_SEQPACKET pair to the launcher that stays (serving.py). Without it, it spawns the program
(posix_spawn: the interpreter is never forked) with that end for this plan, which exits then. The
launcher clones init, whose parent is the runtime (CLONE_PARENT). Init reports READY, waits for
GO, reports STARTED when the payload's execve has succeeded, and EXITED when the payload has ended.
FAILED may come instead of any of these. Init may die at any time: its stream ends, and its pidfd
becomes readable.

After GO a payload with CAP_SYS_PTRACE may take init's socket (pidfd_getfd(2)) and send reports. So
an unexpected or invalid report ends the container and has no other effect.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from errno import EINVAL, EMFILE, ENOSYS, EPERM
from typing import Final

from northstar.launch.plan import LaunchPlan
from northstar.launch.plan_ops import GO, NO_OPERATION, TEXT_MAX, Op, Report, Step
from northstar.launch.serving import ServingLauncher, reap
from northstar.linux import memfd, pidfd
from northstar.model import Exited, ExitStatus, HostError, LaunchError, Signalled

_SOCKET_NUMBER: Final = 3
"""The descriptor of the program's socket."""

_PROGRAM_NUMBER_MIN: Final = 60
"""The program's own descriptor must not be replaced by a file action: EACCES (see docs)."""

REPORT_HEAD: Final = struct.Struct("<IIIii")
STEPS: Final = {
    Step.RECEIVE: "receive the launch plan",
    Step.PLAN: "perform the launch plan",
    Step.SHIELD: "protect init from the payload",
    Step.FORK: "fork the payload",
    Step.LAUNCH: "launch init",
    Step.HELPER: "enter the container",
}
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred, unix(7): pid, uid, gid."""

_NO_FILTERS: Final = (
    "a container with CAP_SYS_PTRACE needs a kernel with CONFIG_SECCOMP_FILTER: remove it from the "
    "manifest, or use another kernel"
)
_HINTS: Final = {
    (Op.DENY_GETFD, EINVAL): _NO_FILTERS,
    (Op.DENY_GETFD, ENOSYS): _NO_FILTERS,
    (Op.SCHED, EPERM): "where cgroups of version 1 limit real-time scheduling, the manifest must "
    "set a budget with cgroups.cpu.realtime_runtime",
    (Op.RLIMIT, EPERM): "set at most the runtime's own hard limit, or start the runtime with "
    "CAP_SYS_RESOURCE",
}
_ALL_SIGNALS: Final = tuple(signal.valid_signals())

_REPORTS_PER_TURN: Final = 16
_REPORTS_AT_END: Final = 1000
"""Most reports that are read at once, and after init's death. init writes few, but a payload that
has taken its socket may write without end."""

_AFTER: Final = {
    Report.LAUNCHED: {Report.SKIPPED, Report.MADE, Report.READY, Report.FAILED},
    Report.SKIPPED: {Report.SKIPPED, Report.MADE, Report.READY, Report.FAILED},
    Report.MADE: {Report.MADE, Report.READY, Report.FAILED},
    Report.READY: {Report.FAILED},
    Report.STARTED: {Report.EXITED},
}
"""The reports that may follow each report; none follow the others. After GO: see `Init.go`."""

log = logging.getLogger("northstar.launch")


class Launcher:
    """The C program in a sealed memfd, ready to be spawned. Close it when the runtime ends.

    It is sealed and belongs to root with mode 0700, so a container can neither write to it through
    /proc/*/exe nor execute it.
    """

    def __init__(self, descriptor: int, executor: Executor | None = None) -> None:
        self._descriptor = descriptor
        self._executor = executor
        self._serving: ServingLauncher | None = None

    @classmethod
    def load(cls, executor: Executor | None = None) -> Launcher:
        """Read the program from the package.

        Args:
            executor: waits for an init that cannot be watched; default: the event loop's executor.

        Raises:
            HostError: the package was installed without the program.
        """
        try:
            # The package is always a directory; the import of importlib.resources takes longer
            # than this whole function.
            with open(os.path.join(os.path.dirname(__file__), "init"), "rb") as program:
                content = program.read()
        except FileNotFoundError:
            raise HostError(
                "the launcher program is missing from the installed package",
                hint="install the package again, with a C compiler (gcc, musl-tools)",
            ) from None
        return cls(_executable(content), executor)

    @property
    def executor(self) -> Executor | None:
        """Executes blocking calls."""
        return self._executor

    def spawn_copy(self, child_end: socket.socket) -> int:
        """Spawn a copy of the program; return its pid. It expects an exec plan on its socket.

        A process of the running container can race with its checks, and so open the file that it
        executes, as /proc/self/exe (CVE-2019-5736). That file is sealed, but root in a container
        can change its mode. So it is no file that anything else uses.

        Args:
            child_end: becomes its socket; the caller keeps and closes it.

        Raises:
            OSError: it could not be spawned.
        """
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        copy = _executable(content)
        try:
            return _spawn(copy, child_end)
        finally:
            os.close(copy)

    async def serve(self, *, own_namespace: bool) -> None:
        """Spawn a launcher that stays, for all launches; at its end the next launch spawns another.

        Must be called in the runtime's main thread, before any image is mounted: a mount that its
        namespace contains cannot be unmounted.

        Args:
            own_namespace: it enters a mount namespace of its own. The mounts of the runtime's
                namespace must not be shared, and plans must attach their images.

        Raises:
            OSError: it could not be spawned.
        """
        self._serving = ServingLauncher(self._spawn, own_namespace=own_namespace)
        await self._serving.ready

    def _spawn(self, child_end: socket.socket) -> int:
        return _spawn(self._descriptor, child_end)

    def _served_by(self, plan: LaunchPlan) -> ServingLauncher | None:
        """Return the launcher that stays, if there is one for this plan."""
        if self._serving is not None and self._serving.ended is not None:
            # Images may be mounted now, so the next one stays in the runtime's namespace.
            self._serving = ServingLauncher(self._spawn, own_namespace=False)
        if self._serving is None or (self._serving.own_namespace and not plan.attaches):
            return None
        return self._serving

    def close(self) -> None:
        """Close the memfd, end the launcher; idempotent. Running containers are not affected."""
        if self._serving is not None:
            self._serving.end()
            self._serving = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def launch(
        self,
        plan: LaunchPlan,
        descriptors: Mapping[str, int],
        on_skipped: Callable[[str], None],
    ) -> Init:
        """Have a launcher perform a plan; the returned `Init` reports the progress.

        Must be called in the event loop's thread, which is the runtime's main thread: the kernel
        kills init when its parent *thread* ends (PR_SET_PDEATHSIG, prctl(2)).

        Args:
            plan: the plan to perform.
            descriptors: by the names of `plan.descriptors`; the caller keeps and closes them.
            on_skipped: called with the source of each optional bind that does not exist.

        Raises:
            OSError: the program could not be spawned.
            LaunchError: it exited before it received the plan.
        """
        stream, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            undo.enter_context(stream)
            with child_end:
                stream.setblocking(False)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                # Before the spawn, since epoll_ctl(2) can fail: an existing init would then be
                # unwatched.
                init = Init(stream, plan, on_skipped, self._executor)
                undo.callback(init.stop_reading)
                serving = self._served_by(plan)
                passed = [descriptors[name] for name in plan.descriptors]
                if serving is not None and serving.request(plan.encode(), child_end, passed):
                    init.serving = serving
                    undo.pop_all()
                    return init
                pid = init.launcher_pid = self._spawn(child_end)
            try:
                send_plan(stream, plan, descriptors)
            except (BrokenPipeError, ConnectionResetError):
                raise _launcher_ended(reap(pid)) from None
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            undo.pop_all()
        return init

    def supervise(self, arguments: Sequence[str], output: int) -> tuple[int, socket.socket]:
        """Spawn a program on the host under a supervisor.

        When this process ends, the supervisor kills the program and all its descendants. The
        supervisor is the C program as well (launcher/supervise.c). It is a child of this process,
        to be reaped by the caller, and exits after the last supervised process.

        Args:
            arguments: the program, which is searched in PATH, and its arguments.
            output: its stdout and stderr; the caller keeps and closes it.

        Returns:
            The supervisor's pid, and the socket to it. A signal number sent on it (u32, little
            endian) is delivered to the program; the end of the stream kills all processes. If the
            program could not be executed, its errno (u32) is received.

        Raises:
            OSError: the supervisor could not be spawned.
        """
        stream, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child_end:
            try:
                stream.setblocking(False)
                pid = os.posix_spawn(
                    f"/proc/self/fd/{self._descriptor}",
                    ["northstar-debug", *arguments],
                    os.environ,
                    file_actions=[
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                        # The socket last: `output` may have the number 3.
                        (os.POSIX_SPAWN_DUP2, output, 1),
                        (os.POSIX_SPAWN_DUP2, output, 2),
                        (os.POSIX_SPAWN_DUP2, child_end.fileno(), _SOCKET_NUMBER),
                    ],
                    setsigmask=(),
                    setsigdef=_ALL_SIGNALS,
                )
            except BaseException:
                stream.close()
                raise
        return pid, stream


def _executable(content: bytes) -> int:
    """Return a sealed file that can be spawned, with a number that no file action replaces."""
    writable = memfd.sealed("northstar-init", content, mode=0o700, executable=True)
    try:
        # execve(2) of a file that is open for writing fails with ETXTBSY.
        low = memfd.reopen_read_only(writable)
    finally:
        os.close(writable)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _PROGRAM_NUMBER_MIN)
    finally:
        os.close(low)


def _spawn(program: int, child_end: socket.socket) -> int:
    return os.posix_spawn(
        f"/proc/self/fd/{program}",
        ["northstar-init"],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, child_end.fileno(), _SOCKET_NUMBER)],
        setsigmask=(),
        setsigdef=_ALL_SIGNALS,
    )


def send_plan(stream: socket.socket, plan: LaunchPlan, descriptors: Mapping[str, int]) -> None:
    """Send a plan and its descriptors to a launcher that was just spawned.

    Raises:
        OSError: EPIPE or ECONNRESET if it has ended; EMFILE.
    """
    content = memfd.sealed("northstar-plan", plan.encode())
    try:
        passed = array.array("i", [content, *(descriptors[name] for name in plan.descriptors)])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
        # The first message on a new socket never blocks.
        stream.sendmsg([struct.pack("<I", len(passed))], rights)
    finally:
        os.close(content)


def exit_status(op: int, value: int) -> ExitStatus:
    """Return the status that a report EXITED describes.

    Raises:
        ValueError: it describes none.
    """
    if op == 0 and 0 <= value <= 255:
        return Exited(value)
    if op == 1 and 1 <= value <= 64:
        return Signalled(value)
    raise ValueError(f"EXITED with operation {op}, value {value}")


def _launcher_ended(status: ExitStatus) -> LaunchError:
    return LaunchError("launch init", reason=f"its launcher ended with {status}")


def _receive(stream: socket.socket) -> tuple[bytes, list[int], int]:
    """Receive a report: its bytes, the descriptors, and the pid of its sender (0: unknown)."""
    size = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4)
    # Python does not set MSG_CMSG_CLOEXEC; without it the next launcher inherits the descriptors.
    data, ancillary, _, _ = stream.recvmsg(
        REPORT_HEAD.size + TEXT_MAX, size, socket.MSG_CMSG_CLOEXEC
    )
    passed = array.array("i")
    sender = 0
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            passed.frombytes(content[: len(content) // 4 * 4])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            sender, _, _ = _CREDENTIALS.unpack(content)
    return data, list(passed), sender


class Init:
    """The runtime's handle of one container's PID 1, from its launch to its end.

    Attributes:
        launcher_pid: the pid of a launcher for this plan, 0 after it is reaped.
        serving: the launcher that clones it, if that is one that stays.
        pid: its process id on the host, 0 before `ready` is done.
        ready: done when init waits for `go`; fails with LaunchError.
        started: done when the payload runs; fails with LaunchError.
        exited: done with the payload's exit status when init is reaped; never fails.
        on_exit: called with that status, at the same time.
    """

    def __init__(
        self,
        stream: socket.socket,
        plan: LaunchPlan,
        on_skipped: Callable[[str], None],
        executor: Executor | None = None,
    ) -> None:
        """Start to read `stream`; the caller spawns the launcher with its other end.

        Raises:
            OSError: the event loop cannot watch the stream.
        """
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._plan = plan
        self._on_skipped = on_skipped
        self._executor = executor
        self._pidfd = -1
        self._launcher_pidfd = -1
        self._kill_requested = False
        self._expected: set[Report] = {Report.LAUNCHED, Report.FAILED}
        self._status: ExitStatus | None = None
        self._sockets: dict[str, socket.socket] = {}
        self.launcher_pid = 0
        self.serving: ServingLauncher | None = None
        self.pid = 0
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.exited: asyncio.Future[ExitStatus] = self._loop.create_future()
        self.on_exit: Callable[[ExitStatus], object] | None = None
        self._loop.add_reader(stream.fileno(), self._on_report)

    def stop_reading(self) -> None:
        """Stop reading reports, and close the stream; idempotent."""
        if not self._stream_closed:
            self._loop.remove_reader(self._stream.fileno())
            self._stream.close()

    def take_socket(self, name: str) -> socket.socket:
        """Return the runtime's descriptor of a socket that init has created; the caller owns it.

        Each can be taken once, after `ready` is done.

        Args:
            name: as in the plan's descriptors; for the console the runtime's end is returned.

        Raises:
            LaunchError: init has ended meanwhile.
        """
        if name not in self._sockets:
            # init has ended: `started` has failed with the cause.
            self.started.result()
            raise LaunchError("start the container", reason="its init has ended")
        return self._sockets.pop(name)

    def go(self) -> None:
        """Send GO after `ready`: init forks, and its child executes the payload."""
        if self._expected:
            self._expected = {Report.STARTED, Report.FAILED}
        if self._stream_closed:
            return  # init has died, and its end was processed
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # init has died, and its end will be processed.
            self._stream.send(struct.pack("<I", GO))

    def kill(self) -> None:
        """Kill init and so all processes of its PID namespace; `exited` is done afterwards."""
        if self._pidfd >= 0:
            pidfd.send_signal(self._pidfd, signal.SIGKILL)
        else:
            # Not cloned yet. Its pid is needed to reap it, so wait for the launcher's report.
            self._kill_requested = True

    def duplicate_pidfd(self) -> int:
        """Duplicate the pidfd of init, which is not reaped yet; the caller owns it.

        Raises:
            OSError: no free descriptor.
        """
        return fcntl.fcntl(self._pidfd, fcntl.F_DUPFD_CLOEXEC, 0)

    def _on_report(self, most: int = _REPORTS_PER_TURN) -> None:
        for _ in range(most):
            if self._stream_closed:
                return
            try:
                data, passed, sender = _receive(self._stream)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data, passed, sender = b"", [], 0
            if not data:
                self._close_all(passed)
                self.stop_reading()
                if self._pidfd < 0:
                    self._finish_unlaunched()
                return
            launcher = self.launcher_pid if self.serving is None else self.serving.pid
            if self._pidfd < 0 and sender not in (0, launcher):
                # The launcher was killed between the clone and its report, and the sender is init:
                # a child of this process that is not reaped, so its pid is not reused.
                try:
                    self._adopt(sender, pidfd.open(sender))
                except OSError as failure:
                    self._kill_unwatched(sender, failure.errno or 0)
                if self._pidfd < 0:
                    self._close_all(passed)
                    return
            try:
                self._handle(data, passed)
            except (ValueError, IndexError, struct.error) as error:
                log.error("Killing init with pid %d after an invalid report: %r", self.pid, error)
                self.stop_reading()
                if self._pidfd >= 0:
                    self.kill()
                else:
                    self._end_launcher()
            finally:
                self._close_all(passed)

    def _handle(self, data: bytes, passed: list[int]) -> None:
        """Process a report; a descriptor that is kept is removed from `passed`.

        Raises:
            ValueError, IndexError, struct.error: the report is unexpected or invalid.
        """
        kind, index, op, errno, value = REPORT_HEAD.unpack_from(data)
        text = data[REPORT_HEAD.size :].split(b"\0", 1)[0].decode(errors="backslashreplace")
        report = Report(kind)
        if report not in self._expected:
            raise ValueError(f"unexpected {report.name}")
        match report:
            case Report.LAUNCHED if passed:
                self._adopt(value, passed.pop())
            case Report.LAUNCHED:
                # The kernel drops a descriptor that it cannot install, cmsg(3).
                self._kill_unwatched(value, EMFILE)
                return
            case Report.SKIPPED:
                self._on_skipped(text)
            case Report.MADE if value < 1:
                raise ValueError(f"MADE with value {value}")
            case Report.MADE if passed:
                self._keep_socket(self._plan.descriptors[value - 1], passed)
            case Report.MADE:  # the descriptor was dropped, as above
                self._fail(LaunchError("receive a socket of the container", errno=EMFILE))
                self.kill()
            case Report.READY:
                self._try_reap_launcher()
                if not self.ready.done():
                    self.ready.set_result(None)
            case Report.STARTED:
                if not self.started.done():
                    self.started.set_result(None)
            case Report.EXITED:
                self._status = exit_status(op, value)
            case Report.FAILED:
                self._fail(self._failure(index, op, errno, value, text))
        self._expected = _AFTER.get(report, set())

    def _finish_unlaunched(self) -> None:
        """Process the end of a stream before the clone: the launcher has ended, or has failed."""
        if self.serving is None:
            status = reap(self.launcher_pid)
        elif Report.LAUNCHED in self._expected:
            status = self.serving.failed()
        else:
            status = Exited(1)  # it has reported the failure, as one that exits then
        self._fail(_launcher_ended(status))
        self._finish(status)

    def _end_launcher(self) -> None:
        """End a launcher that has not reported an init. An init that it has cloned ends by itself.

        Init ends when the other end of its stream is closed.
        """
        if self.serving is not None:
            status = self.serving.end()
        else:
            os.kill(self.launcher_pid, signal.SIGKILL)
            status = reap(self.launcher_pid)
        self.launcher_pid = 0
        self._fail(_launcher_ended(status))
        self._finish(status)

    def _keep_socket(self, name: str, passed: list[int]) -> None:
        """Keep the descriptor of a socket that init has made, until `take_socket`.

        Raises:
            ValueError: it is none, or init has made this one before.
        """
        if name in self._sockets:
            raise ValueError(f"report MADE twice for {name}")
        try:
            self._sockets[name] = socket.socket(fileno=passed[-1])
        except OSError as failure:
            raise ValueError(f"report MADE without a socket: {failure}") from failure
        passed.pop()

    def _adopt(self, pid: int, descriptor: int) -> None:
        """Watch an init by its pidfd; kill it if that fails."""
        try:
            self._loop.add_reader(descriptor, self._on_death)
        except OSError as failure:
            os.close(descriptor)
            self._kill_unwatched(pid, failure.errno or 0)
            return
        self.pid, self._pidfd = pid, descriptor
        if self._kill_requested:
            self.kill()

    def _kill_unwatched(self, pid: int, errno: int) -> None:
        """Kill an init whose pidfd cannot be opened or watched: its end would not be noticed.

        It is not reaped yet, so its pid is not reused.
        """
        self.pid = pid
        self.stop_reading()
        os.kill(pid, signal.SIGKILL)
        self._fail(LaunchError("launch init", errno=errno))

        def reaped(_: asyncio.Future[tuple[int, int]]) -> None:
            self._reap_launcher()
            self._finish(Signalled(signal.SIGKILL))

        waiting = self._loop.run_in_executor(self._executor, os.waitpid, pid, 0)
        waiting.add_done_callback(reaped)

    @staticmethod
    def _close_all(descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    def _failure(self, index: int, op: int, errno: int, killed_by: int, text: str) -> LaunchError:
        hint = None
        if index == NO_OPERATION:
            step = STEPS[Step(op)]
        else:
            step = self._plan.operations[index].describe()
            hint = _HINTS.get((Op(op), errno))
        if killed_by:
            return LaunchError(step, reason=f"it was ended by signal {killed_by}")
        return LaunchError(step, text, errno, hint=hint)

    def _fail(self, error: LaunchError) -> None:
        for future in (self.ready, self.started):
            if not future.done():
                future.set_exception(error)
                # A caller that failed at an earlier future does not await this one: avoid the
                # warning "exception was never retrieved".
                future.exception()

    def _on_death(self) -> None:
        # init's last reports are still in the socket.
        self._on_report(_REPORTS_AT_END)
        self.stop_reading()
        self._loop.remove_reader(self._pidfd)
        status = pidfd.wait(self._pidfd)
        assert status is not None
        os.close(self._pidfd)
        self._pidfd = -1
        self._reap_launcher()
        ended = Exited(status.code) if status.code is not None else Signalled(status.signal or 0)
        self._finish(self._status or ended)

    def _try_reap_launcher(self) -> None:
        """Reap the launcher if it has exited, else watch for its exit. Does not block.

        It exits right after its report, usually before init is ready. Without this each running
        container would keep a zombie.
        """
        if self.serving is not None:
            return
        if os.waitpid(self.launcher_pid, os.WNOHANG) != (0, 0):
            self.launcher_pid = 0
            return
        # If it cannot be watched, it is reaped together with init.
        with contextlib.suppress(OSError):
            descriptor = pidfd.open(self.launcher_pid)
            try:
                self._loop.add_reader(descriptor, self._reap_launcher)
            except OSError:
                os.close(descriptor)
                raise
            self._launcher_pidfd = descriptor

    def _reap_launcher(self) -> None:
        """Reap the launcher, which has exited or is about to; idempotent."""
        if self._launcher_pidfd >= 0:
            self._loop.remove_reader(self._launcher_pidfd)
            os.close(self._launcher_pidfd)
            self._launcher_pidfd = -1
        if self.launcher_pid:
            reap(self.launcher_pid)
            self.launcher_pid = 0

    def _finish(self, status: ExitStatus) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()
        if not (self.ready.done() and self.started.done()):
            self._fail(LaunchError("start the container", reason=f"its init ended with {status}"))
        if not self.exited.done():
            self.exited.set_result(status)
            if self.on_exit is not None:
                self.on_exit(status)

    @property
    def _stream_closed(self) -> bool:
        return self._stream.fileno() < 0
