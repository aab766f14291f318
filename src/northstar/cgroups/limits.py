"""Translates a manifest's `cgroups` section into writes to files, for both versions. Pure.

The result is a list of writes in the order that the kernel requires. `cgroup.py` executes it.

Two rules hold. A limit that the host lacks is a warning, since a package is made for any host. A
limit that the host supports and refuses is a failed start, since the package depends on it.
Exceptions are weights, throttles and raw attributes, whose files differ too much between kernels:
each refusal is a warning.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final, NamedTuple

from northstar.manifest.cgroups import Blkio, Cgroups, Cpu, Memory
from northstar.model import listed

# No limit, in version 2.
_MAX: Final = "max"
_DEFAULT_CPU_SHARES: Final = 1024
_DEFAULT_CPU_WEIGHT: Final = 100

# The file is missing, or exists without function (kmem since Linux 5.16, swap accounting switched
# off).
UNSUPPORTED: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP})


class Write(NamedTuple):
    """One value for one cgroup file.

    Attributes:
        controller: the file's controller: `cpu`, `cpuset`, `cpuacct`, `memory`, `blkio` or `pids`.
        choices: (file, value) pairs; the first one whose file exists is written.
        required: a refusal fails the start; otherwise it is a warning.
        realtime: a real-time budget, (runtime, period) in microseconds. Every cgroup above must
            have it as well.
    """

    controller: str
    choices: tuple[tuple[str, str], ...]
    required: bool = True
    realtime: tuple[int, int] | None = None

    @property
    def file(self) -> str:
        """The file of the first choice."""
        return self.choices[0][0]


class Plan(NamedTuple):
    """The writes, and warnings about limits that the host lacks."""

    writes: list[Write]
    warnings: list[str]


def plan(config: Cgroups, versions: Mapping[str, int]) -> Plan:
    """Translate a manifest's section.

    Args:
        config: the section.
        versions: for each usable controller, the version (1 or 2) of its hierarchy.
    """
    result = Plan([], [])
    if config.cpu:
        _cpuset(config.cpu, result)
        if versions.get("cpu") == 2:
            _cpu_v2(config.cpu, result)
        else:
            _cpu_v1(config.cpu, result)
        _attributes(config.cpu.attrs, "cpu", ("cpu", "cpuset", "cpuacct"), result)
    if config.memory:
        if versions.get("memory") == 2:
            _memory_v2(config.memory, result)
        else:
            _memory_v1(config.memory, result)
        _attributes(config.memory.attrs, "memory", ("memory",), result)
    if config.blkio:
        if versions.get("blkio") == 2:
            _blkio_v2(config.blkio, result)
        else:
            _blkio_v1(config.blkio, result)
        _attributes(config.blkio.attrs, "blkio", ("blkio", "io"), result)
    if config.pids:
        _put(result, "pids", "pids.max", _limit(config.pids.max))
    return _without_missing_controllers(result, versions)


def _without_missing_controllers(result: Plan, versions: Mapping[str, int]) -> Plan:
    missing: dict[str, list[str]] = {}
    for write in result.writes:
        if write.controller not in versions:
            missing.setdefault(write.controller, []).append(write.file)
    warnings = [
        f"this host has no {controller} controller: {listed(files)} not set"
        for controller, files in missing.items()
    ]
    writes = [write for write in result.writes if write.controller in versions]
    return Plan(writes, result.warnings + warnings)


def _put(
    result: Plan, controller: str, file: str, value: int | str, *, required: bool = True
) -> None:
    result.writes.append(Write(controller, ((file, str(value)),), required))


def _limit(value: int) -> str:
    """Return a limit for version 2: -1 is `max`. The kernel refuses other negative numbers."""
    return _MAX if value == -1 else str(value)


def _attributes(
    attributes: Mapping[str, str], section: str, prefixes: tuple[str, ...], result: Plan
) -> None:
    """Add raw attributes, but only files of the section's controllers.

    A cgroup's directory also contains files that act on other processes: `cgroup.procs: "1"` would
    move the host's init into a cgroup that is killed when the container ends.
    """
    foreign = []
    for file, value in attributes.items():
        prefix, dot, _ = file.partition(".")
        if not dot or prefix not in prefixes:
            foreign.append(file)
            continue
        controller = "blkio" if prefix == "io" else prefix
        _put(result, controller, file, value, required=False)
    if foreign:
        are = "is not a file" if len(foreign) == 1 else "are not files"
        result.warnings.append(
            f"cgroups.{section}.attrs: {listed(foreign)} {are} of the controller: not set"
        )


# cpu and cpuset


def _cpuset(cpu: Cpu, result: Plan) -> None:
    if cpu.cpus is not None:
        _put(result, "cpuset", "cpuset.cpus", cpu.cpus)
    if cpu.mems is not None:
        _put(result, "cpuset", "cpuset.mems", cpu.mems)


def _cpu_v1(cpu: Cpu, result: Plan) -> None:
    if cpu.shares is not None:
        _put(result, "cpu", "cpu.shares", cpu.shares)
    # The period first: the kernel checks a quota against the current period.
    if cpu.period is not None:
        _put(result, "cpu", "cpu.cfs_period_us", cpu.period)
    if cpu.quota is not None:
        _put(result, "cpu", "cpu.cfs_quota_us", cpu.quota if cpu.quota > 0 else -1)
    if cpu.realtime_period is not None:
        _put(result, "cpu", "cpu.rt_period_us", cpu.realtime_period)
    if cpu.realtime_runtime is not None:
        runtime = cpu.realtime_runtime
        period = cpu.realtime_period or 1_000_000
        choices = (("cpu.rt_runtime_us", str(runtime)),)
        result.writes.append(Write("cpu", choices, realtime=(runtime, period)))


def _cpu_v2(cpu: Cpu, result: Plan) -> None:
    if cpu.shares is not None:
        _put(result, "cpu", "cpu.weight", cpu_weight(cpu.shares))
    if cpu.quota is not None or cpu.period is not None:
        quota = str(cpu.quota) if cpu.quota is not None and cpu.quota > 0 else _MAX
        period = "" if cpu.period is None else f" {cpu.period}"
        _put(result, "cpu", "cpu.max", quota + period)
    for name in ("realtime_runtime", "realtime_period"):
        if getattr(cpu, name) is not None:
            result.warnings.append(f"cgroups.cpu.{name} does not exist in cgroup v2: not set")


def cpu_weight(shares: int) -> int:
    """Return the weight of version 2 (1..10000, default 100) for shares (2.., default 1024).

    Both are proportions, and the conversion keeps them: a container with 1024 shares gets as much
    as one without `shares`, and twice the shares get twice as much.
    """
    weight = (shares * _DEFAULT_CPU_WEIGHT + _DEFAULT_CPU_SHARES // 2) // _DEFAULT_CPU_SHARES
    return min(max(weight, 1), 10_000)


# memory


def _memory_v1(memory: Memory, result: Plan) -> None:
    # The swap limit counts memory and swap together. It must not be below the hard limit, so it is
    # written after that.
    for file, value in (
        ("memory.kmem.limit_in_bytes", memory.kernel_memory_limit),
        ("memory.limit_in_bytes", memory.memory_hard_limit),
        ("memory.soft_limit_in_bytes", memory.memory_soft_limit),
        ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp_memory_limit),
        ("memory.memsw.limit_in_bytes", memory.memory_swap_limit),
        ("memory.swappiness", memory.swappiness),
    ):
        if value is not None:
            _put(result, "memory", file, value)


def _memory_v2(memory: Memory, result: Plan) -> None:
    if memory.memory_hard_limit is not None:
        _put(result, "memory", "memory.max", _limit(memory.memory_hard_limit))
    if memory.memory_soft_limit is not None:
        _put(result, "memory", "memory.low", _limit(memory.memory_soft_limit))
    for name in ("kernel_memory_limit", "kernel_tcp_memory_limit"):
        if getattr(memory, name) is not None:
            result.warnings.append(f"cgroups.memory.{name} does not exist in cgroup v2: not set")
    if memory.swappiness not in (None, 0):
        result.warnings.append(
            f"cgroups.memory.swappiness {memory.swappiness} does not exist in cgroup v2"
            " (only 0, which means no swap): not set"
        )
    if memory.swappiness == 0:
        _put(result, "memory", "memory.swap.max", 0)
    elif memory.memory_swap_limit == -1:
        _put(result, "memory", "memory.swap.max", _MAX)
    elif memory.memory_swap_limit is not None:
        if memory.memory_hard_limit in (None, -1):
            result.warnings.append(
                "cgroups.memory.memory_swap_limit counts memory and swap together; in cgroup v2 it"
                " needs a memory_hard_limit: not set"
            )
        else:
            swap = memory.memory_swap_limit - memory.memory_hard_limit
            _put(result, "memory", "memory.swap.max", swap)


# blkio


def _blkio_v1(blkio: Blkio, result: Plan) -> None:
    def put(value: str, *files: str) -> None:
        choices = tuple((file, value) for file in files)
        result.writes.append(Write("blkio", choices, required=False))

    # The files without `bfq` were those of the CFQ scheduler, which Linux 5.0 removed.
    if blkio.weight is not None:
        put(str(blkio.weight), "blkio.weight", "blkio.bfq.weight")
    if blkio.leaf_weight is not None:
        put(str(blkio.leaf_weight), "blkio.leaf_weight")
    for device in blkio.weight_device:
        name = f"{device.major}:{device.minor}"
        if device.weight is not None:
            put(f"{name} {device.weight}", "blkio.weight_device", "blkio.bfq.weight_device")
        if device.leaf_weight is not None:
            put(f"{name} {device.leaf_weight}", "blkio.leaf_weight_device")
    for file, devices in (
        ("blkio.throttle.read_bps_device", blkio.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", blkio.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", blkio.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", blkio.throttle_write_iops_device),
    ):
        for limit in devices:
            put(f"{limit.major}:{limit.minor} {limit.rate}", file)


def _blkio_v2(blkio: Blkio, result: Plan) -> None:
    def weight(prefix: str, value: int) -> None:
        # BFQ's weights and io.weight have the same default, 100, so the number is kept.
        text = f"{prefix}{value}"
        choices = (("io.bfq.weight", text), ("io.weight", text))
        result.writes.append(Write("blkio", choices, required=False))

    if blkio.weight is not None:
        weight("default ", blkio.weight)
    for device in blkio.weight_device:
        if device.weight is not None:
            weight(f"{device.major}:{device.minor} ", device.weight)
    if blkio.leaf_weight is not None or any(
        device.leaf_weight is not None for device in blkio.weight_device
    ):
        result.warnings.append("cgroups.blkio.leaf_weight does not exist in cgroup v2: not set")
    # One line per device.
    limits: dict[str, list[str]] = {}
    for key, devices in (
        ("rbps", blkio.throttle_read_bps_device),
        ("wbps", blkio.throttle_write_bps_device),
        ("riops", blkio.throttle_read_iops_device),
        ("wiops", blkio.throttle_write_iops_device),
    ):
        for limit in devices:
            # 0 removes a limit in version 1; version 2 refuses it.
            rate = str(limit.rate) if limit.rate else _MAX
            limits.setdefault(f"{limit.major}:{limit.minor}", []).append(f"{key}={rate}")
    for name, pairs in limits.items():
        _put(result, "blkio", "io.max", f"{name} {' '.join(pairs)}", required=False)
