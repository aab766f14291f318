"""The choice of hierarchies from the mounts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.cgroups.host import CgroupHost, choose_hierarchies
from northstar.cgroups.tree import Hierarchy
from northstar.linux.mountinfo import MountInfo, parse_line
from northstar.model import HostError


def v1(path: str, options: str, flags: str = "rw") -> tuple[MountInfo, tuple[str, ...]]:
    return parse_line(f"32 31 0:29 / {path} {flags},nosuid - cgroup cgroup {options}"), ()


def v2(path: str, *controllers: str, flags: str = "rw") -> tuple[MountInfo, tuple[str, ...]]:
    line = f"41 31 0:38 / {path} {flags} - cgroup2 cgroup2 rw,nsdelegate"
    return parse_line(line), controllers


def hierarchy(path: str, version: int, *controllers: str) -> Hierarchy:
    return Hierarchy(path, version, frozenset(controllers))


def test_unified() -> None:
    mounts = [v2("/sys/fs/cgroup", "cpuset", "cpu", "io", "memory", "hugetlb", "pids", "misc")]
    assert choose_hierarchies(mounts) == [
        hierarchy("/sys/fs/cgroup", 2, "cpuset", "cpu", "blkio", "memory", "pids")
    ]


def test_legacy_with_controllers_mounted_together() -> None:
    mounts = [
        v1("/c/systemd", "rw,xattr,name=systemd"),
        v1("/c/cpu,cpuacct", "rw,cpu,cpuacct"),
        v1("/c/freezer", "rw,freezer"),
        v1("/c/memory", "rw,memory"),
    ]
    assert choose_hierarchies(mounts) == [
        hierarchy("/c/cpu,cpuacct", 1, "cpu", "cpuacct"),
        hierarchy("/c/memory", 1, "memory"),
    ]


def test_a_unified_hierarchy_without_used_controllers_is_left_out_on_a_legacy_host() -> None:
    mounts = [v1("/c/memory", "rw,memory"), v2("/c/unified", "hugetlb")]
    assert choose_hierarchies(mounts) == [hierarchy("/c/memory", 1, "memory")]


def test_a_hybrid_host_uses_both() -> None:
    mounts = [v2("/c/unified", "io", "memory"), v1("/c/cpu", "rw,cpu")]
    assert choose_hierarchies(mounts) == [
        hierarchy("/c/cpu", 1, "cpu"),
        hierarchy("/c/unified", 2, "blkio", "memory"),
    ]


def test_a_unified_hierarchy_alone_counts_even_without_controllers() -> None:
    assert choose_hierarchies([v2("/c")]) == [hierarchy("/c", 2)]


def test_the_first_mount_of_a_controller_counts() -> None:
    mounts = [v1("/a", "rw,memory"), v1("/b", "rw,memory"), v2("/c"), v2("/d", "cpu")]
    assert choose_hierarchies(mounts) == [hierarchy("/a", 1, "memory")]


@pytest.mark.parametrize(
    "mount", [v1("/a", "rw,memory", "ro"), v1("/a", "ro,memory"), v2("/c", "cpu", flags="ro")]
)
def test_a_read_only_hierarchy_does_not_count(mount: tuple[MountInfo, tuple[str, ...]]) -> None:
    assert choose_hierarchies([mount]) == []


def test_the_description_for_the_log() -> None:
    host = CgroupHost(
        [hierarchy("/c/cpu", 1, "cpu", "cpuacct"), hierarchy("/c/unified", 2, "memory", "blkio")]
    )
    assert host.usable == {"cpu": 1, "cpuacct": 1, "memory": 2, "blkio": 2}
    assert host.description == "v1 (cpu, cpuacct), v2 (memory, blkio)"
    assert CgroupHost([hierarchy("/c", 2)]).description == "v2 (no controllers)"
    assert CgroupHost([]).description == "none"


CGROUPS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join)


@given(st.lists(st.tuples(st.booleans(), CGROUPS), max_size=30))
def test_no_cgroup_is_claimed_at_above_or_below_another(steps: list[tuple[bool, str]]) -> None:
    host = CgroupHost([])
    claimed: set[str] = set()
    for claims, path in steps:
        if not claims:
            host.release(path)
            claimed.discard(path)
            continue
        taken = {
            other
            for other in claimed
            if f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")
        }
        if not taken:
            host.claim(path)
            claimed.add(path)
            continue
        with pytest.raises(HostError, match="is not free") as refused:
            host.claim(path)
        assert str(refused.value).rpartition("another container has ")[2].split(";")[0] in taken
