"""Helpers for the tests of cgroups."""

import subprocess
from typing import IO, Any

from northstar.cgroups import Cgroup, CgroupHost, tree
from northstar.linux import cgroupfs
from northstar.manifest.cgroups import Cgroups, Cpu, Memory, Pids

HOST = CgroupHost.detect()
V1 = HOST.usable.get("memory") == 1
MIB = 1024 * 1024

LIMITS = Cgroups(
    pids=Pids(20),
    cpu=Cpu(cpus="0", mems="0", shares=512, quota=10_000, period=20_000),
    memory=Memory(memory_hard_limit=64 * MIB, memory_soft_limit=32 * MIB),
)


def value(cgroup: Cgroup, controller: str, file: str) -> str:
    directory = cgroup.controller(controller)
    assert directory is not None
    return cgroupfs.read(f"{directory}/{file}").strip()


def directories(path: str) -> list[str]:
    return [f"{hierarchy.path}/{path}" for hierarchy in HOST.hierarchies]


def attach(cgroup: Cgroup, pid: int) -> None:
    """Move a process into a cgroup, in all hierarchies."""
    for hierarchy in cgroup.host.hierarchies:
        cgroupfs.write(f"{cgroup.directory(hierarchy)}/cgroup.procs", str(pid))


def attach_and_resume(cgroup: Cgroup, process: subprocess.Popen[str]) -> IO[str]:
    """Move a program that has printed a line and waits for one into a cgroup, and send the line.

    Returns:
        Its stdout.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    attach(cgroup, process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout


def pids(cgroup: Cgroup) -> set[int]:
    """Return the processes of a cgroup and of those below it."""
    return {
        pid
        for hierarchy in cgroup.host.hierarchies
        for directory in tree.tree(cgroup.directory(hierarchy))
        for pid in tree.procs(directory)
    }


def used(cgroup: Cgroup) -> dict[str, Any]:
    """Return the statistics of a single read."""
    statistics = cgroup.statistics()
    try:
        return statistics.read()
    finally:
        statistics.close()
