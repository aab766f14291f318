"""Which processes a signal to a container reaches, with child processes of the test."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from northstar.linux import pidfd, procfs
from northstar.runtime.stopping import stop_members

TIMEOUT = 20.0


class Group:
    """A process group: its leader has the role of a container's init."""

    def __init__(self) -> None:
        self.leader = subprocess.Popen(["sleep", "1000"], process_group=0)
        self.number = self.leader.pid
        self.init = pidfd.open(self.number)
        self.member = subprocess.Popen(["sleep", "1000"], process_group=self.number)

    def close(self) -> None:
        for process in (self.leader, self.member):
            process.kill()
            process.wait()
        os.close(self.init)


@pytest.fixture
def group() -> Iterator[Group]:
    made = Group()
    yield made
    made.close()


def state(process: subprocess.Popen[bytes]) -> str:
    return procfs.process_group(os.getpgid(process.pid))[process.pid]


def wait_state(process: subprocess.Popen[bytes], wanted: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while state(process) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_all_members_but_init_are_stopped(group: Group) -> None:
    stop_members(group.number, group.init)
    wait_state(group.member, "T")
    assert state(group.leader) != "T"


def test_a_group_whose_init_is_reaped_is_somebody_elses(group: Group) -> None:
    group.leader.kill()
    group.leader.wait()
    assert procfs.group_of(group.member.pid) == group.number
    stop_members(group.number, group.init)
    assert state(group.member) != "T"


def test_a_number_that_is_another_process_by_now(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of members is older than the signal: a pid in it may have been reused."""
    other = Group()
    older = [{other.member.pid: "S"}, {}]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(procfs, "process_group", lambda _: older.pop(0))
            stop_members(group.number, group.init)
        assert older == []
        assert state(other.member) != "T"
    finally:
        other.close()


def test_the_group_of_a_process_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ProcessLookupError):
        procfs.group_of(process.pid)
