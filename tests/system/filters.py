"""Seccomp filters around tested programs: to simulate an older kernel, or to fail single calls.

A filter applies to one thread, and its child processes inherit it. So a process under a filter is
started by a thread that has the filter (`Thread`), and the test itself runs without.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

MACHINE: Final = os.uname().machine

# linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
ALLOW, ERRNO, USER_NOTIF = 0x7FFF0000, 0x00050000, 0x7FC00000

# Calls with an older substitute, of Linux 5.4 or later or hidden by filters. These numbers are the
# same on all architectures.
NEWER: Final = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "open_tree_attr": 467,
}
SECCOMP = {"x86_64": 317, "aarch64": 277}[MACHINE]
_IOCTL = {"x86_64": 16, "aarch64": 29}[MACHINE]
_LOOP_CONFIGURE = 0x4C0A  # linux/loop.h, Linux 5.8

LAUNCHER_END: Final = 0x10000000
"""The launcher and the test programs are linked below this address; libraries never are."""

# struct seccomp_data: nr, arch, instruction pointer, six arguments
_NUMBER, _POINTER, _ARGUMENTS = 0, 8, 16

Instruction = tuple[int, int, int, int]


def load(offset: int) -> Instruction:
    """Load 32 bits of the call."""
    return (0x20, 0, 0, offset)


def equal(value: int, *, otherwise: int) -> Instruction:
    """Continue if the loaded bits equal `value`, else skip `otherwise` instructions."""
    return (0x15, 0, otherwise, value)


def answer(action: int) -> Instruction:
    """End with an action."""
    return (0x06, 0, 0, action)


def without(names: Iterable[str]) -> list[Instruction]:
    """Return a filter that fails system calls with ENOSYS, like a kernel that lacks them."""
    program = [load(_NUMBER)]
    for name in names:
        program += [equal(NEWER[name], otherwise=1), answer(ERRNO | errno.ENOSYS)]
    return [*program, answer(ALLOW)]


def older_kernel() -> list[Instruction]:
    """Return a filter that simulates a kernel without any of the calls with a substitute."""
    return [
        *without(NEWER)[:-1],
        equal(_IOCTL, otherwise=3),
        load(_ARGUMENTS + 8),
        equal(_LOOP_CONFIGURE, otherwise=1),
        answer(ERRNO | errno.EINVAL),
        answer(ALLOW),
    ]


def in_launcher(action: int, number: int | None = None) -> list[Instruction]:
    """Return a filter for one or all system calls of programs linked below `LAUNCHER_END`."""
    program = [] if number is None else [load(_NUMBER), equal(number, otherwise=5)]
    return [
        *program,
        load(_POINTER + 4),
        equal(0, otherwise=3),
        load(_POINTER),
        (0x35, 1, 0, LAUNCHER_END),  # greater or equal: skip one
        answer(action),
        answer(ALLOW),
    ]


def install(program: Sequence[Instruction], *, listener: bool = False) -> int:
    """Install a filter on this thread and its future children; it cannot be removed.

    Returns:
        The descriptor of the listener if one is requested: seccomp_unotify(2).
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER if listener else 0
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(
        ctypes.c_long(SECCOMP), SECCOMP_SET_MODE_FILTER, ctypes.c_uint(flags), header
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "seccomp")
    return result


class Call(NamedTuple):
    """A suspended system call that waits for an answer.

    Attributes:
        id: id of the notification.
        pid: the caller, a process of this process's PID namespace.
        number: number of the call.
        first: its first argument.
    """

    id: int
    pid: int
    number: int
    first: int


class Listener:
    """Answers the suspended system calls of a filter: seccomp_unotify(2)."""

    RECV, SEND = 0xC0502100, 0xC0182101
    CONTINUE = 1

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def next(self, timeout: float) -> Call | None:
        """Wait `timeout` seconds for a call; None if none came, or no process is left."""
        if not any(events & select.POLLIN for _, events in self._poll.poll(timeout * 1000)):
            return None
        data = bytearray(80)
        try:
            fcntl.ioctl(self._descriptor, self.RECV, data)
        except OSError as error:
            if error.errno != errno.ENOENT:  # its process has just ended
                raise
            return None
        return Call(*struct.unpack_from("QI4xi12xQ", data))

    def answer(self, call: Call, error: int = 0) -> None:
        """Perform the call, or fail it with `error`; its process may be gone."""
        reply = struct.pack("QqiI", call.id, 0, -error, 0 if error else self.CONTINUE)
        try:
            fcntl.ioctl(self._descriptor, self.SEND, reply)
        except OSError as failure:
            if failure.errno != errno.ENOENT:
                raise

    def close(self) -> None:
        """Close the listener; suspended and later calls fail with ENOSYS."""
        os.close(self._descriptor)


class Thread:
    """A thread under a filter that calls functions.

    Its processes must end before `close`: the kernel kills init when its parent thread ends.
    """

    def __init__(self, program: Sequence[Instruction], *, listener: bool = False) -> None:
        self._pool = ThreadPoolExecutor(1)
        descriptor = self(partial(install, program, listener=listener))
        self.listener = Listener(descriptor) if listener else None

    def __call__(self, function: Callable[[], T]) -> T:
        """Call a function in the thread."""
        return self._pool.submit(function).result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()
        if self.listener is not None:
            self.listener.close()


def listened(descriptor: int) -> tuple[str, ...]:
    """Return a command prefix that installs a filter, sends its listener, and executes a program.

    The system calls of the launchers that the program starts are suspended. The listener is sent to
    the socket `descriptor`.
    """
    return (sys.executable, "-I", __file__, str(descriptor))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as other:
        listening = install(in_launcher(USER_NOTIF), listener=True)
        socket.send_fds(other, [b"listener"], [listening])
        os.close(listening)
    os.execv(sys.argv[2], sys.argv[2:])
