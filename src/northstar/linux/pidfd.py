"""Processes by descriptor: pidfd_open(2), pidfd_send_signal(2), waitid(2).

The kernel can reuse a pid for another process after the first is reaped; a pidfd always refers to
the same process. It becomes readable (poll, epoll) when the process ends.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Final, NamedTuple

_PROCESS_GROUP: Final = 4
"""PIDFD_SIGNAL_PROCESS_GROUP of include/uapi/linux/pidfd.h, Linux 6.9."""


class WaitStatus(NamedTuple):
    """How a process ended: exactly one field is set.

    Attributes:
        code: exit code, 0..255.
        signal: the signal that killed it, 1..64.
    """

    code: int | None
    signal: int | None


def open(pid: int) -> int:  # noqa: A001 - pidfd.open() reads as the system call
    """pidfd_open(2); close-on-exec. The caller owns the descriptor.

    Raises:
        OSError: ESRCH if the process does not exist.
    """
    return os.pidfd_open(pid)


def send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2).

    Raises:
        OSError: ESRCH if it has ended and was reaped, EINVAL for a number that is no signal.
    """
    signal.pidfd_send_signal(pidfd, number)


def send_group_signal(pidfd: int, leader: int, number: int) -> None:
    """Send a signal to a process group: pidfd_send_signal(2) with PIDFD_SIGNAL_PROCESS_GROUP.

    Before Linux 6.9: killpg(2). The number of the group must not be reused then, so the leader must
    not be reaped by a process that is free to do so.

    Args:
        pidfd: of the leader of the group.
        leader: its pid.
        number: of the signal.

    Raises:
        OSError: ESRCH if the leader was reaped, or the group has no members; EINVAL.
    """
    try:
        signal.pidfd_send_signal(pidfd, number, None, _PROCESS_GROUP)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        signal.pidfd_send_signal(pidfd, 0)
        os.killpg(leader, number)


def wait(pidfd: int, *, block: bool = True) -> WaitStatus | None:
    """Reap a child of this process: waitid(2) with P_PIDFD.

    Args:
        pidfd: of a child.
        block: wait until it ends; otherwise return None while it runs.

    Raises:
        OSError: ECHILD if it is not a child of this process, or was reaped.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | (0 if block else os.WNOHANG))
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return WaitStatus(code=result.si_status, signal=None)
    return WaitStatus(code=None, signal=result.si_status)
