"""Sends SIGSTOP to a container: to every process of its group except init."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from northstar.linux import pidfd, procfs

_PASSES_MAX: Final = 100
"""Most passes over a group whose members fork meanwhile; each pass stops all members it finds."""


def stop_members(group: int, init: int) -> None:
    """Send SIGSTOP to all members of a container's process group except init. Blocks.

    SIGSTOP from outside stops init as well (pid_namespaces(7)), and a stopped init neither reaps
    nor reports. So every other member is signalled separately, until all are stopped.

    Args:
        group: the number of the process group, which is init's pid.
        init: a pidfd of init.
    """
    for _ in range(_PASSES_MAX):
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

    `pid` may be reused: so a pidfd is opened before the group is read. The number of the group may
    be reused after init is reaped: so init is checked after that. If it exists then, it existed
    before.

    Raises:
        ProcessLookupError: the process or init has ended.
    """
    held = pidfd.open(pid)
    try:
        if procfs.group_of(pid) == group:
            pidfd.send_signal(init, 0)
            pidfd.send_signal(held, signal.SIGSTOP)
    finally:
        os.close(held)
