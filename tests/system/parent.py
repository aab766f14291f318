"""A parent with an unusual process state, which its program inherits: this process changes its
state as described (JSON, see `wrap`), then executes the program that follows.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

LAST_SIGNAL = 64
NR_RT_SIGACTION = {"x86_64": 13}.get(os.uname().machine, 134)
PR_SET_CHILD_SUBREAPER = 36
NR_IOPRIO_SET = {"x86_64": 251}.get(os.uname().machine, 30)
IOPRIO_IDLE = 3 << 13


def wrap(**state: Any) -> tuple[str, ...]:
    """Return the command line to put before that of the program.

    Args:
        state: `ignored`, a list of signals; `blocked`: all; `umask`; `closed`, descriptors;
            `leaked`, number of descriptors left open; `limits`, soft limit by resource;
            `variables`, additional environment, or None for an empty environment;
            `removed_directory` True: the working directory is removed; `odd` True: nice 19, I/O
            priority idle, a child subreaper; `orphan` True: the parent exits, after it has written
            the pid of its child to stdout.
    """
    return (sys.executable, "-I", __file__, json.dumps(state))


def ignore(number: int) -> None:
    """Ignore a signal, also one that the C library reserves; KILL and STOP cannot be ignored."""
    action = (ctypes.c_ulong * 8)(signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(ctypes.c_long(NR_RT_SIGACTION), number, action, None, ctypes.c_size_t(8))


def leak(count: int) -> None:
    """Leave descriptors of several kinds open."""
    for _ in range(count // 3):
        for number in (*os.pipe(), os.open("/etc/passwd", os.O_RDONLY)):
            os.set_inheritable(number, True)


def be_odd() -> None:
    """Change the priorities, and become a child subreaper."""
    libc = ctypes.CDLL(None)
    os.nice(19)
    assert libc.syscall(ctypes.c_long(NR_IOPRIO_SET), 1, 0, IOPRIO_IDLE) == 0
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def main() -> None:
    """Change this process, and execute the program."""
    state: dict[str, Any] = json.loads(sys.argv[1])
    program = sys.argv[2:]
    if state.get("odd"):
        be_odd()
    if state.get("orphan") and (pid := os.fork()):
        print(pid, flush=True)
        os._exit(0)
    os.umask(state.get("umask", 0o022))
    leak(state.get("leaked", 0))
    if state.get("removed_directory"):
        os.mkdir("removed")
        os.chdir("removed")
        os.rmdir("../removed")
    variables = state.get("variables", {})
    environment = {} if variables is None else {**os.environ, **variables}
    for number in state.get("ignored", ()):
        ignore(number)
    if state.get("blocked"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for name, soft in state.get("limits", {}).items():
        number = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))
    for number in state.get("closed", ()):
        os.close(number)
    os.execve(program[0], program, environment)


if __name__ == "__main__":
    main()
