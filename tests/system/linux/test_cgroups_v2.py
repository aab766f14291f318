"""What is special about version 2. Runs in the virtual machine where the host has version 1."""

import os

import pytest

from northstar.runtime.cgroups import Cgroup
from tests.system.linux.cgroups import HOST, LIMITS, MIB, V1, directories, value

MAY_SKIP = ("this host has cgroup version 1",)
pytestmark = [
    pytest.mark.root,
    pytest.mark.vm,
    pytest.mark.skipif(V1, reason="this host has cgroup version 1"),
]


def test_limits_are_what_the_kernel_says(top: str) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", LIMITS)
    assert not cgroup.warnings
    assert {
        name: value(cgroup, name.partition(".")[0], name)
        for name in (
            *("pids.max", "cpuset.cpus", "cpuset.mems", "cpu.weight", "cpu.max"),
            *("memory.max", "memory.low"),
        )
    } == {
        "pids.max": "20",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "cpu.weight": "50",
        "cpu.max": "10000 20000",
        "memory.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
    }
    cgroup.destroy()


def test_a_process_is_cloned_into_the_cgroup(top: str) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", None)
    assert cgroup.open_tasks() == []
    fd = cgroup.into_fd()
    assert fd is not None
    assert os.fstat(fd).st_ino == os.stat(directories(f"{top}/hello")[0]).st_ino
    assert not os.get_inheritable(fd)
    os.close(fd)
    cgroup.destroy()
