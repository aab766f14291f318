"""Processes by descriptor: pidfd_open(2), pidfd_send_signal(2), waitid(2).

A number can name another process once the first is reaped, a descriptor cannot. It is readable
(poll, epoll) from the moment the process has ended.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple


class WaitStatus(NamedTuple):
    """How a process ended: exactly one of both is set.

    Attributes:
        code: 0..255, of exit(3).
        signal: 1..64, the one that killed it.
    """

    code: int | None
    signal: int | None


def open(pid: int) -> int:  # noqa: A001 - pidfd.open() reads as the system call
    """pidfd_open(2); close-on-exec. The caller owns the descriptor.

    Raises:
        OSError: ESRCH if there is no such process (any more).
    """
    return os.pidfd_open(pid)


def send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2).

    Raises:
        OSError: ESRCH if it has ended and was reaped, EINVAL for a number that the kernel
            does not know.
    """
    signal.pidfd_send_signal(pidfd, number)


def wait(pidfd: int, *, block: bool = True) -> WaitStatus | None:
    """Reap a child of this process: waitid(2) with P_PIDFD.

    Args:
        pidfd: of a child.
        block: wait for its end; else return None while it runs.

    Raises:
        OSError: ECHILD if it is no child of this process, or reaped already.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | (0 if block else os.WNOHANG))
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return WaitStatus(code=result.si_status, signal=None)
    return WaitStatus(code=None, signal=result.si_status)
