"""Stops a program at its system calls: to kill it before one, or to let one fail.

    with Interceptor(["mount", "rename"]) as interceptor:
        runtime = make_runtime(wrap=interceptor.wrap, pass_fds=interceptor.pass_fds)
        interceptor.decide = lambda call: errno.EIO if call.name == "mount" else None

A seccomp filter notifies the test of each call of the given names (seccomp_unotify(2)). A failed
call is not executed; program and kernel are otherwise unchanged. This file is also the helper that
installs the filter and executes the program.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

# linux/seccomp.h, and the numbers of the system calls that the helper itself needs.
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
NR_SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]
BPF_LD_W_ABS, BPF_JEQ, BPF_RET = 0x20, 0x15, 0x06

# struct seccomp_notif: id, pid, flags, and struct seccomp_data: nr, arch, ip, args[6]
NOTIF = struct.Struct("=QIIiIQ6Q")
# struct seccomp_notif_resp: id, val, error, flags
RESPONSE = struct.Struct("=QqiI")
RECEIVE = 3 << 30 | NOTIF.size << 16 | ord("!") << 8 | 0
SEND = 3 << 30 | RESPONSE.size << 16 | ord("!") << 8 | 1


class Call(NamedTuple):
    """A system call that the program is about to make.

    Attributes:
        name: its name.
        pid: the process.
        tid: the thread.
        arguments: its six argument registers.
    """

    name: str
    pid: int
    tid: int
    arguments: tuple[int, ...]

    def path(self, index: int) -> str:
        """Return the string that an argument points to."""
        with open(f"/proc/{self.tid}/mem", "rb") as memory:
            memory.seek(self.arguments[index])
            # Not beyond the page: the next one may be unmapped.
            room = 4096 - self.arguments[index] % 4096
            text = memory.read(room)
            if b"\0" not in text:
                text += memory.read(4096)
        return os.fsdecode(text.split(b"\0", 1)[0])


Decide = Callable[[Call], int | None]
"""Returns the errno with which the call fails, or None to execute it."""


def from_first(name: str, decide: Decide) -> Decide:
    """Return a decision that applies `decide` from the first call of that name on."""
    begun = False

    def later(call: Call) -> int | None:
        nonlocal begun
        begun = begun or call.name == name
        return decide(call) if begun else None

    return later


class Interceptor:
    """Decides about the calls of one program at a time; a context manager.

    Attributes:
        wrap: the words before the program's command line.
        pass_fds: descriptors that the program must inherit.
        decide: called for each call of the program, not of its children.
        hold: called before each call of its children; the call continues when this returns.
    """

    def __init__(self, names: Iterable[str]) -> None:
        numbered = ((_number(name), name) for name in names)
        # Some calls exist on some architectures only, such as rename(2).
        self._names = {number: name for number, name in numbered if number >= 0}
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.pass_fds = (self._theirs.fileno(),)
        numbers = ",".join(map(str, self._names))
        self.wrap = (sys.executable, "-I", __file__, str(self._theirs.fileno()), numbers)
        self.decide: Decide = lambda _call: None
        self.hold: Callable[[Call], None] = lambda _call: None
        self._ending = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ending[1])
        self._thread.join()
        os.close(self._ending[0])
        self._ours.close()
        self._theirs.close()
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        try:
            while (program := self._next()) is not None:
                pid, listener = program
                try:
                    self._answer_all(pid, listener)
                finally:
                    os.close(listener)
        except BaseException as failure:
            self._failure = failure

    def _next(self) -> tuple[int, int] | None:
        ready, _, _ = select.select([self._ours.fileno(), self._ending[0]], [], [])
        if self._ending[0] in ready:
            return None
        data, descriptors, _, _ = socket.recv_fds(self._ours, 16, 1)
        return int(data), descriptors[0]

    def _answer_all(self, pid: int, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._ending[0], 0)
        while True:
            events = dict(poll.poll())
            if not events.get(listener, 0) & select.POLLIN:
                return  # the program or the test has ended
            buffer = bytearray(NOTIF.size)
            try:
                fcntl.ioctl(listener, RECEIVE, buffer)
            except OSError as failure:
                if failure.errno in (errno.ENOENT, errno.EINTR):
                    continue  # the calling process was killed
                raise
            identifier, tid, _, number, _, _, *arguments = NOTIF.unpack(buffer)
            error = None
            call = Call(self._names[number], pid, tid, tuple(arguments))
            if os.path.exists(f"/proc/{pid}/task/{tid}"):
                error = self.decide(call)
            else:
                self.hold(call)
            flags = 0 if error else SECCOMP_USER_NOTIF_FLAG_CONTINUE
            answer = RESPONSE.pack(identifier, 0, -(error or 0), flags)
            with contextlib.suppress(OSError):  # it was killed meanwhile
                fcntl.ioctl(listener, SEND, answer)


def _number(name: str) -> int:
    library = ctypes.CDLL("libseccomp.so.2")
    number: int = library.seccomp_syscall_resolve_name(name.encode())
    assert number != -1, f"there is no system call {name}"
    return number


def _listen(numbers: list[int]) -> int:
    """Install the filter for this process and its children; return the listener descriptor."""
    program: list[tuple[int, int, int, int]] = [(BPF_LD_W_ABS, 0, 0, 0)]
    # The filter ignores the architecture: the tests run no program of another one.
    for index, number in enumerate(numbers):
        program.append((BPF_JEQ, len(numbers) - index, 0, number))
    program.append((BPF_RET, 0, 0, SECCOMP_RET_ALLOW))
    program.append((BPF_RET, 0, 0, SECCOMP_RET_USER_NOTIF))
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    holder = ctypes.create_string_buffer(code)
    fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(holder))
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    descriptor: int = libc.syscall(
        ctypes.c_long(NR_SECCOMP),
        ctypes.c_ulong(SECCOMP_SET_MODE_FILTER),
        ctypes.c_ulong(SECCOMP_FILTER_FLAG_NEW_LISTENER),
        fprog,
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return descriptor


def _main() -> None:
    number, numbers, *command = sys.argv[1:]
    channel = socket.socket(fileno=int(number))
    set_, listener = threading.Event(), -1

    def tell() -> None:
        set_.wait()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))]
        channel.sendmsg([str(os.getpid()).encode()], rights)

    # A filter belongs to a thread: an earlier thread has none, and makes its calls freely.
    teller = threading.Thread(target=tell)
    teller.start()
    listener = _listen([int(text) for text in numbers.split(",")])
    set_.set()
    teller.join()
    os.execv(command[0], command)


if __name__ == "__main__":
    _main()
