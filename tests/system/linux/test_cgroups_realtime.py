"""Real-time budgets, which only version 1 has."""

import errno
import os
import subprocess
from collections.abc import Callable

import pytest

from northstar.cgroups import Cgroup
from northstar.manifest.cgroups import Cgroups, Cpu
from northstar.model.errors import LaunchError
from tests.system.linux.cgroups import HOST, V1, attach_and_resume

MAY_SKIP = ("this host has cgroup version 2", "this kernel has no real-time groups")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not V1, reason="this host has cgroup version 2"),
]


def has_realtime_groups() -> bool:
    return any(
        "cpu" in hierarchy.controllers and os.path.exists(f"{hierarchy.path}/cpu.rt_runtime_us")
        for hierarchy in HOST.hierarchies
    )


REALTIME = """
import os
print(flush=True)
input()
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("fifo", flush=True)
except OSError as error:
    print(error.errno, flush=True)
input()
"""


@pytest.mark.skipif(not has_realtime_groups(), reason="this kernel has no real-time groups")
def test_a_realtime_budget_is_given_on_every_level(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    def outcome(cgroup: Cgroup) -> str:
        process = spawn(REALTIME)
        return attach_and_resume(cgroup, process).readline().strip()

    plain = Cgroup.create(HOST, top, "plain", None)
    assert outcome(plain) == str(errno.EPERM)
    made = [
        Cgroup.create(HOST, top, name, Cgroups(parent=f"{top}/a/b", cpu=cpu))
        for name, cpu in (
            ("one", Cpu(realtime_runtime=3000)),
            ("two", Cpu(realtime_runtime=1000, realtime_period=100_000)),
        )
    ]
    for cgroup in made:
        assert not cgroup.warnings
        assert outcome(cgroup) == "fifo"
    # Created again at once, while the zombie of the removed cgroup still uses its budget.
    made[0].destroy()
    made[0] = Cgroup.create(
        HOST, top, "one", Cgroups(parent=f"{top}/a/b", cpu=Cpu(realtime_runtime=3000))
    )
    with pytest.raises(LaunchError, match="real-time"):
        Cgroup.create(HOST, top, "greedy", Cgroups(cpu=Cpu(realtime_runtime=999_999)))
    for cgroup in (*made, plain):
        cgroup.destroy()
