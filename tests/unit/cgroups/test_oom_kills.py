"""The count of processes that were killed for lack of memory, of both cgroup versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from northstar.cgroups import Cgroup
from northstar.cgroups.host import CgroupHost
from northstar.cgroups.tree import Hierarchy

V2 = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"


def cgroup(tmp_path: Path, version: int, content: str | None, controller: str = "memory") -> Cgroup:
    """Return a cgroup whose files are in `tmp_path`."""
    directory = tmp_path / "top/app"
    directory.mkdir(parents=True)
    if content is not None:
        name = "memory.events" if version == 2 else "memory.oom_control"
        (directory / name).write_text(content)
    hierarchy = Hierarchy(str(tmp_path), version, frozenset({controller}))
    made = Cgroup(CgroupHost((hierarchy,)), "top/app")
    made._made = [hierarchy]
    return made


@pytest.mark.parametrize(
    ("version", "content", "expected"),
    [
        (2, V2, 3),
        (1, V1, 2),
        (1, "oom_kill_disable 0\nunder_oom 0\n", 0),  # Linux 4.12
        (2, None, 0),
        (1, None, 0),
    ],
)
def test_oom_kills(tmp_path: Path, version: int, content: str | None, expected: int) -> None:
    assert cgroup(tmp_path, version, content).oom_kills() == expected


def test_a_host_without_a_memory_controller(tmp_path: Path) -> None:
    assert cgroup(tmp_path, 2, V2, "pids").oom_kills() == 0
