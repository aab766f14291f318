"""The writes that a manifest's cgroups section becomes, for both versions. No file is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.cgroups.limits import Plan, cpu_weight, plan
from northstar.manifest.cgroups import (
    Blkio,
    Cgroups,
    Cpu,
    Memory,
    Pids,
    ThrottleDevice,
    WeightDevice,
)

ALL = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids")
V1 = dict.fromkeys(ALL, 1)
V2 = dict.fromkeys(("cpu", "cpuset", "memory", "blkio", "pids"), 2)


def values(result: Plan) -> list[tuple[str, str, str]]:
    """Controller, file and value of each write's first choice, in order."""
    return [(write.controller, *write.choices[0]) for write in result.writes]


def blkio(**fields: object) -> Blkio:
    lists = {
        "weight_device": (),
        **{f"throttle_{w}_{k}_device": () for w in ("read", "write") for k in ("bps", "iops")},
    }
    return Blkio(**{**lists, **fields})  # type: ignore[arg-type]


def test_an_empty_section_writes_nothing() -> None:
    assert plan(Cgroups(), V1) == Plan([], [])
    assert plan(Cgroups(cpu=Cpu(), memory=Memory(), blkio=blkio()), V2) == Plan([], [])


def test_cpu_v1() -> None:
    cpu = Cpu(
        cpus="0-1",
        mems="0",
        shares=512,
        quota=1000,
        period=2000,
        realtime_runtime=5000,
        realtime_period=100_000,
    )
    result = plan(Cgroups(cpu=cpu), V1)
    assert values(result) == [
        ("cpuset", "cpuset.cpus", "0-1"),
        ("cpuset", "cpuset.mems", "0"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "2000"),
        ("cpu", "cpu.cfs_quota_us", "1000"),
        ("cpu", "cpu.rt_period_us", "100000"),
        ("cpu", "cpu.rt_runtime_us", "5000"),
    ]
    assert result.writes[-1].realtime == (5000, 100_000)
    assert all(write.required for write in result.writes)
    assert not result.warnings


def test_the_default_period_of_a_realtime_budget_is_a_second() -> None:
    (write,) = plan(Cgroups(cpu=Cpu(realtime_runtime=5000)), V1).writes
    assert write.realtime == (5000, 1_000_000)


def test_cpu_v2() -> None:
    cpu = Cpu(cpus="0", mems="0", shares=512, quota=1000, period=2000, realtime_runtime=5000)
    result = plan(Cgroups(cpu=cpu), V2)
    assert values(result) == [
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("cpu", "cpu.weight", "50"),
        ("cpu", "cpu.max", "1000 2000"),
    ]
    assert result.warnings == ["cgroups.cpu.realtime_runtime does not exist in cgroup v2: not set"]


@pytest.mark.parametrize(
    ("quota", "period", "v1", "v2"),
    [
        (None, 5000, [("cpu.cfs_period_us", "5000")], "max 5000"),
        (7000, None, [("cpu.cfs_quota_us", "7000")], "7000"),
        (0, None, [("cpu.cfs_quota_us", "-1")], "max"),
        (-5, 5000, [("cpu.cfs_period_us", "5000"), ("cpu.cfs_quota_us", "-1")], "max 5000"),
    ],
)
def test_quota_and_period(
    quota: int | None, period: int | None, v1: list[tuple[str, str]], v2: str
) -> None:
    config = Cgroups(cpu=Cpu(quota=quota, period=period))
    assert [write[1:] for write in values(plan(config, V1))] == v1
    assert values(plan(config, V2)) == [("cpu", "cpu.max", v2)]


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1024, 100), (2048, 200), (512, 50), (2, 1), (0, 1), (102_400, 10_000), (2**64 - 1, 10_000)],
)
def test_shares_become_a_weight_of_the_same_proportion(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_more_shares_are_never_a_smaller_weight(one: int, other: int) -> None:
    assert 1 <= cpu_weight(min(one, other)) <= cpu_weight(max(one, other)) <= 10_000


def test_memory_v1_sets_the_hard_limit_before_the_swap_limit() -> None:
    memory = Memory(
        kernel_memory_limit=1,
        memory_hard_limit=2,
        memory_soft_limit=3,
        kernel_tcp_memory_limit=4,
        memory_swap_limit=-1,
        swappiness=60,
    )
    assert values(plan(Cgroups(memory=memory), V1)) == [
        ("memory", "memory.kmem.limit_in_bytes", "1"),
        ("memory", "memory.limit_in_bytes", "2"),
        ("memory", "memory.soft_limit_in_bytes", "3"),
        ("memory", "memory.kmem.tcp.limit_in_bytes", "4"),
        ("memory", "memory.memsw.limit_in_bytes", "-1"),
        ("memory", "memory.swappiness", "60"),
    ]


def test_memory_v2() -> None:
    memory = Memory(
        kernel_memory_limit=1,
        memory_hard_limit=100,
        memory_soft_limit=-1,
        kernel_tcp_memory_limit=4,
        memory_swap_limit=150,
        swappiness=60,
    )
    result = plan(Cgroups(memory=memory), V2)
    assert values(result) == [
        ("memory", "memory.max", "100"),
        ("memory", "memory.low", "max"),
        ("memory", "memory.swap.max", "50"),
    ]
    assert [warning.split()[0] for warning in result.warnings] == [
        "cgroups.memory.kernel_memory_limit",
        "cgroups.memory.kernel_tcp_memory_limit",
        "cgroups.memory.swappiness",
    ]


@pytest.mark.parametrize(
    ("hard", "swap", "swappiness", "expected"),
    [
        (100, 150, None, "50"),
        (100, 100, None, "0"),
        (100, 50, None, "-50"),  # the kernel refuses it, as version 1 does
        (100, -1, None, "max"),
        (None, -1, None, "max"),
        (100, 150, 0, "0"),
        (None, None, 0, "0"),
        (100, None, None, None),
    ],
)
def test_swap_v2(
    hard: int | None, swap: int | None, swappiness: int | None, expected: str | None
) -> None:
    memory = Memory(memory_hard_limit=hard, memory_swap_limit=swap, swappiness=swappiness)
    result = plan(Cgroups(memory=memory), V2)
    written = [value for _, file, value in values(result) if file == "memory.swap.max"]
    assert written == ([] if expected is None else [expected])
    assert not result.warnings


@pytest.mark.parametrize("hard", [None, -1])
def test_a_swap_limit_without_a_hard_limit_has_no_meaning_in_v2(hard: int | None) -> None:
    memory = Memory(memory_hard_limit=hard, memory_swap_limit=100)
    result = plan(Cgroups(memory=memory), V2)
    assert "memory.swap.max" not in [file for _, file, _ in values(result)]
    assert len(result.warnings) == 1
    assert "memory_hard_limit" in result.warnings[0]


def test_blkio_v1() -> None:
    config = blkio(
        weight=300,
        leaf_weight=200,
        weight_device=(WeightDevice(8, 0, weight=100, leaf_weight=50),),
        throttle_read_bps_device=(ThrottleDevice(8, 0, 1000), ThrottleDevice(8, 16, 0)),
        throttle_write_iops_device=(ThrottleDevice(8, 0, 5),),
    )
    result = plan(Cgroups(blkio=config), V1)
    assert [write.choices for write in result.writes] == [
        (("blkio.weight", "300"), ("blkio.bfq.weight", "300")),
        (("blkio.leaf_weight", "200"),),
        (("blkio.weight_device", "8:0 100"), ("blkio.bfq.weight_device", "8:0 100")),
        (("blkio.leaf_weight_device", "8:0 50"),),
        (("blkio.throttle.read_bps_device", "8:0 1000"),),
        (("blkio.throttle.read_bps_device", "8:16 0"),),
        (("blkio.throttle.write_iops_device", "8:0 5"),),
    ]
    assert not any(write.required for write in result.writes)


def test_blkio_v2_has_one_line_for_a_device() -> None:
    config = blkio(
        weight=300,
        leaf_weight=200,
        weight_device=(WeightDevice(8, 0, weight=100),),
        throttle_read_bps_device=(ThrottleDevice(8, 0, 1000), ThrottleDevice(8, 16, 0)),
        throttle_write_bps_device=(ThrottleDevice(8, 0, 2000),),
        throttle_read_iops_device=(ThrottleDevice(8, 0, 3),),
        throttle_write_iops_device=(ThrottleDevice(8, 0, 5),),
    )
    result = plan(Cgroups(blkio=config), V2)
    assert [write.choices for write in result.writes] == [
        (("io.bfq.weight", "default 300"), ("io.weight", "default 300")),
        (("io.bfq.weight", "8:0 100"), ("io.weight", "8:0 100")),
        (("io.max", "8:0 rbps=1000 wbps=2000 riops=3 wiops=5"),),
        (("io.max", "8:16 rbps=max"),),
    ]
    assert not any(write.required for write in result.writes)
    assert result.warnings == ["cgroups.blkio.leaf_weight does not exist in cgroup v2: not set"]


@pytest.mark.parametrize("versions", [V1, V2])
def test_pids(versions: dict[str, int]) -> None:
    result = plan(Cgroups(pids=Pids(20)), versions)
    assert values(result) == [("pids", "pids.max", "20")]
    assert result.writes[0].required


def test_raw_attributes_go_to_their_controller_and_may_fail() -> None:
    config = Cgroups(
        cpu=Cpu(attrs={"cpu.idle": "1", "cpuset.cpu_exclusive": "1"}),
        memory=Memory(attrs={"memory.oom.group": " 1 "}),
        blkio=blkio(attrs={"io.latency": "8:0 target=1", "blkio.reset_stats": "1"}),
    )
    result = plan(config, V1)
    assert values(result) == [
        ("cpu", "cpu.idle", "1"),
        ("cpuset", "cpuset.cpu_exclusive", "1"),
        ("memory", "memory.oom.group", " 1 "),
        ("blkio", "io.latency", "8:0 target=1"),
        ("blkio", "blkio.reset_stats", "1"),
    ]
    assert not any(write.required for write in result.writes)


@pytest.mark.parametrize(
    "file",
    [
        *("cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.event_control", "tasks"),
        *("release_agent", "notify_on_release", "memory", "memory.limit_in_bytes"),
    ],
)
def test_an_attribute_of_another_controller_is_not_written(file: str) -> None:
    result = plan(Cgroups(cpu=Cpu(attrs={file: "1"})), V1)
    assert not result.writes
    warning = f"cgroups.cpu.attrs: {file} is not a file of the controller: not set"
    assert result.warnings == [warning]


def test_a_controller_that_the_host_lacks_is_named_once() -> None:
    config = Cgroups(cpu=Cpu(cpus="0", shares=5), pids=Pids(1), memory=Memory(memory_hard_limit=9))
    result = plan(config, {"memory": 1})
    assert values(result) == [("memory", "memory.limit_in_bytes", "9")]
    assert result.warnings == [
        "this host has no cpuset controller: cpuset.cpus not set",
        "this host has no cpu controller: cpu.shares not set",
        "this host has no pids controller: pids.max not set",
    ]


def test_a_hybrid_host_uses_the_version_of_each_controller() -> None:
    config = Cgroups(cpu=Cpu(shares=1024), memory=Memory(memory_hard_limit=9))
    assert values(plan(config, {"cpu": 1, "memory": 2})) == [
        ("cpu", "cpu.shares", "1024"),
        ("memory", "memory.max", "9"),
    ]
