"""The runtime's side of exec'ed processes: what can be tested without a container."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from northstar.launch.entered import kill_children
from northstar.linux import pidfd, procfs

_PARENT = """
import os, signal, sys
for _ in range(3):
    if os.fork() == 0:
        signal.pause()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process with three children, in a process group of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        for pid in procfs.children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()


def _states(pids: list[int]) -> set[str]:
    states = set()
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            states.add(file.read().rpartition(")")[2].split()[0])
    return states


def test_all_children_are_killed(parent: subprocess.Popen[str]) -> None:
    children = procfs.children(parent.pid)
    assert len(children) == 3
    assert {procfs.parent_of(pid) for pid in children} == {parent.pid}
    held = pidfd.open(parent.pid)
    try:
        kill_children(parent.pid, held)
    finally:
        os.close(held)
    while _states(children) != {"Z"}:
        pass  # pytest-timeout ends it
    assert parent.poll() is None


def test_the_children_of_another_process_are_not(parent: subprocess.Popen[str]) -> None:
    """The pid is reused by now: the pidfd is of a process that was reaped."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        held = pidfd.open(ended.pid)
        ended.wait()
    try:
        kill_children(parent.pid, held)
    finally:
        os.close(held)
    assert "Z" not in _states(procfs.children(parent.pid))


@pytest.mark.parametrize("older", [False, True])
def test_a_signal_to_a_process_group(
    parent: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    send = signal.pidfd_send_signal

    def without_flags(fd: int, number: int, info: Any = None, flags: int = 0) -> None:
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        send(fd, number, info, flags)

    if older:
        monkeypatch.setattr(signal, "pidfd_send_signal", without_flags)
    held = pidfd.open(parent.pid)
    try:
        pidfd.send_group_signal(held, parent.pid, signal.SIGTERM)
        assert parent.wait() == -signal.SIGTERM
        if older:  # the number may belong to another group by now
            with pytest.raises(ProcessLookupError):
                pidfd.send_group_signal(held, parent.pid, 0)
    finally:
        os.close(held)
