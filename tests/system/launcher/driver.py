"""Drives the launcher without the runtime, by the same sockets, pidfds and plans.

`Image` is a root directory for containers, `operations` builds a whole plan, `Launch` is one
container from its spawn to its end. Every wait has a deadline; `Launch.close` releases everything.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from northstar.launch.plan_ops import GO, PLAN_VERSION, Op, Report
from tests.system import filters

DEADLINE = 120.0 if os.environ.get("NORTHSTAR_VM") else 20.0
"""Seconds after which a wait fails, also on a busy or emulated machine."""

OLDER = os.environ.get("NORTHSTAR_TEST_FALLBACK") == "1"

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

HEADER = struct.Struct("<IIIii")

Operation = tuple[Any, ...]


class Received(NamedTuple):
    """A report; its fields are in the order of plan.def."""

    kind: Report
    operation: int
    number: int
    errno: int
    value: int
    text: str


def encode_operation(number: int, *arguments: object) -> bytes:
    text = b"".join((a if isinstance(a, bytes) else str(a).encode()) + b"\0" for a in arguments)
    return struct.pack("<II", number, len(text)) + text


def encode(plan: Iterable[Operation]) -> bytes:
    return struct.pack("<I", PLAN_VERSION) + b"".join(encode_operation(*o) for o in plan)


def memfd(content: bytes, *, seals: int = SEALS, mode: int = 0o700) -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    os.fchmod(descriptor, mode)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class Image:
    """A root directory with `/payload`, mount points, and files that tests add."""

    def __init__(self, directory: Path, payload: Path) -> None:
        self.path = directory
        for name in ("proc", "sys", "dev", "tmp", "data", "etc"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        shutil.copy(payload, directory / "payload")

    def add(self, name: str, content: str | bytes, mode: int = 0o755) -> None:
        path = self.path / name.lstrip("/")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)


def operations(
    image: Image,
    *commands: str,
    flags: int = NAMESPACES | CLONE_NEWNET,
    cgroup: int = -1,
    before: Sequence[Operation] = (),
    mounts: Sequence[Operation] = (),
    uid: int = 1000,
    gid: int = 1000,
    groups: str = "",
    descriptors: Sequence[int] = (2, 1, 2),
    restrict: Sequence[Operation] = (),
    caps: str = "0",
    seccomp: int = 0,
    argv: Sequence[str] = (),
    env: Sequence[str] = (),
) -> list[Operation]:
    """Return a plan that runs `/payload` with some commands (see tests/system/payload.c)."""
    root = str(image.path)
    argv = argv or ("/payload", *commands)
    return [
        (Op.CLONE, flags, cgroup),
        *(o for o in before if o[0] < Op.KEYRING),
        (Op.KEYRING,),
        (Op.SESSION,),
        *(o for o in before if o[0] > Op.SESSION),
        (Op.ROOT, root),
        # Bind the directory on itself, since the root must be a mount.
        (Op.BIND, "", root, "/", RDONLY | NOSUID | NODEV, 0, ""),
        *mounts,
        (Op.PIVOT,),
        (Op.GROUPS, groups),
        (Op.GID, gid),
        (Op.UID, uid),
        (Op.AWAIT,),
        (Op.CGROUPNS,),
        (Op.PAYLOAD,),
        *((Op.FD, index, number) for number, index in enumerate(descriptors)),
        *restrict,
        (Op.NO_NEW_PRIVS,),
        (Op.CAPS, caps),
        *([(Op.SECCOMP, seccomp)] if seccomp else []),
        (Op.EXEC, argv[0], len(argv), *argv, *env),
    ]


PROC: Operation = (Op.FILESYSTEM, "proc", "proc", "/proc", RDONLY | NOSUID | NODEV | NOEXEC)
TMP: Operation = (Op.FILESYSTEM, "tmpfs", "none", "/tmp", NOSUID | NODEV, "mode=1777", "size=1m")


@cache
def older_kernel() -> filters.Thread | None:
    """Return the thread that spawns all launchers as on an older kernel, None by default."""
    return filters.Thread(filters.older_kernel()) if OLDER else None


class Launch:
    """One run of the launcher.

    Descriptors 1 and 2 of the plan are a pipe that the test reads, and /dev/null; `extra` follows.
    `thread` spawns the launcher; default: the calling thread.
    """

    def __init__(
        self,
        program: int,
        plan: bytes,
        extra: Sequence[int] = (),
        thread: filters.Thread | None = None,
    ) -> None:
        self._thread = thread or older_kernel()
        self.reports: list[Received] = []
        self.pid = 0
        self.pidfd = -1
        self.status: int | None = None
        self._closed = False
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.output, write = os.pipe()
        self.stream, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stream.settimeout(DEADLINE)
        content = memfd(plan)
        with child_end:
            self._spawn(program, child_end)
        self.send([content, write, self._null, *extra])
        os.close(content)
        os.close(write)

    def _spawn(self, program: int, child_end: socket.socket) -> None:
        # For a launcher with sanitizers: ASAN_OPTIONS and the like.
        sanitizer = {k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}
        spawn = partial(
            os.posix_spawn,
            f"/proc/self/fd/{program}",
            ["northstar-init"],
            sanitizer,
            # With 0, 1 and 2 closed, the received descriptors start at 0.
            file_actions=[
                (os.POSIX_SPAWN_DUP2, child_end.fileno(), 3),
                *((os.POSIX_SPAWN_CLOSE, number) for number in (0, 1, 2)),
            ],
            setsigmask=(),
            setsigdef=signal.valid_signals(),
        )
        self.launcher = self._thread(spawn) if self._thread else spawn()

    def send(self, descriptors: Sequence[int]) -> None:
        rights = array.array("i", descriptors)
        message = struct.pack("<I", len(descriptors))
        self.stream.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def next(self) -> Received | None:
        """Return the next report, None at the end of the stream."""
        try:
            data, passed, _, _ = socket.recv_fds(self.stream, 8192, 4)
        except ConnectionResetError:
            return None
        if not data:
            return None
        kind, index, number, errno, value = HEADER.unpack_from(data)
        text = data[HEADER.size :]
        assert text.endswith(b"\0")
        report = Received(
            Report(kind), index, number, errno, value, text[:-1].decode(errors="surrogateescape")
        )
        self.reports.append(report)
        if report.kind == Report.LAUNCHED:
            self.pid = value
            (self.pidfd,) = passed
            assert os.waitpid(self.launcher, 0)[1] == 0
            self.launcher = 0
        else:
            assert not passed
        return report

    def expect(self, *kinds: Report) -> Received:
        """Receive reports of exactly these kinds; return the last."""
        for kind in kinds:
            report = self.next()
            assert report is not None, f"the stream ended before {kind!r}: {self.reports}"
            assert report.kind == kind, report
        return self.reports[-1]

    def go(self) -> None:
        self.stream.send(struct.pack("<I", GO))

    def start(self) -> Self:
        """Process the reports up to STARTED: the payload runs."""
        self.expect(Report.LAUNCHED, Report.READY)
        self.go()
        self.expect(Report.STARTED)
        return self

    def failure(self) -> Received:
        """Run a launch that must fail; return the FAILED report."""
        while (report := self.next()) is not None and report.kind != Report.FAILED:
            if report.kind == Report.READY:
                self.go()
            assert report.kind in {Report.LAUNCHED, Report.READY}, report
        assert report is not None, self.reports
        assert self.next() is None, self.reports
        return report

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the payload's stdout as they arrive, up to its end."""
        rest = b""
        while True:
            assert select.select([self.output], [], [], DEADLINE)[0], "no output of the payload"
            data = os.read(self.output, 65536)
            if not data:
                break
            *whole, rest = (rest + data).split(b"\n")
            yield from map(json.loads, whole)
        assert not rest, rest

    def wait_line(self, do: str) -> dict[str, Any]:
        """Return the next output line of the command `do`."""
        for line in self.lines():
            if line["do"] == do:
                return line
        raise AssertionError(f"no {do} in the payload's output")

    def wait(self) -> int:
        """Wait until init has exited; return its wait status."""
        if self.status is None:
            assert select.select([self.pidfd], [], [], DEADLINE)[0], "init does not end"
            _, self.status = os.waitpid(self.pid, 0)
        return self.status

    def end(self) -> Received:
        """Wait until payload and init have exited; return the EXITED report."""
        report = self.expect(Report.EXITED)
        assert self.next() is None
        assert self.wait() == 0
        return report

    def kill(self, number: int, *, group: bool = False) -> None:
        if group:
            os.killpg(self.pid, number)
        else:
            signal.pidfd_send_signal(self.pidfd, number)

    def processes(self) -> list[int]:
        """Return the host's pids of all processes in init's PID namespace."""
        return processes_in(namespace_of(self.pid))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.stream.close()
        if self.launcher:
            reap(self.launcher)
        if self.pidfd >= 0:
            if self.status is None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                self.wait()
            os.close(self.pidfd)
        os.close(self.output)
        os.close(self._null)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def children() -> list[str]:
    """Return the pids of this process's children, of all threads."""
    found = []
    for task in os.listdir("/proc/self/task"):
        # A thread of an earlier test may end meanwhile.
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"/proc/self/task/{task}/children") as file,
        ):
            found += file.read().split()
    return sorted(found)


def reap(pid: int) -> int:
    """Wait for a child of this process, with the deadline."""
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], DEADLINE)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("the launcher hangs")
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)


def namespace_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")


def processes_in(namespace: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if namespace_of(int(name)) == namespace:
                    found.append(int(name))
    return found


def eventually(condition: Any, what: str) -> Any:
    """Poll a condition until it is true."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        time.sleep(0.002)
    return value


def state_of(pid: int) -> str:
    """Return a process's state letter, `Z` for a zombie: proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
