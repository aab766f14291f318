"""SIGSTOP for a container: every process of its group but its init."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from northstar.linux import pidfd, procfs

_ROUNDS: Final = 100
"""Passes to stop a group whose members fork meanwhile; each pass stops all it sees."""


def stop_members(group: int, init: int) -> None:
    """Send SIGSTOP to all of a container's process group but its init. Blocks for a while.

    SIGSTOP from outside stops init as well (pid_namespaces(7)), and a stopped init neither reaps
    nor reports. So every other member is stopped by itself, until all are seen so.

    Args:
        group: the process group, whose number is init's pid.
        init: a pidfd of init.
    """
    for _ in range(_ROUNDS):
        running = [
            pid
            for pid, state in procfs.process_group(group).items()
            if pid != group and state not in "TZXt"
        ]
        if not running:
            return
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                _stop_member(pid, group, init)


def _stop_member(pid: int, group: int, init: int) -> None:
    """Stop a process if it is in the group now, and the group is the container's.

    The number may be another process's by now: so the process is held, and asked for its group
    after that. The group's number may be another group's once init is reaped: so init is looked at
    last. If it is not reaped then, it was not before.

    Raises:
        ProcessLookupError: the process is gone, or init.
    """
    held = pidfd.open(pid)
    try:
        if procfs.group_of(pid) == group:
            pidfd.send_signal(init, 0)
            pidfd.send_signal(held, signal.SIGSTOP)
    finally:
        os.close(held)
