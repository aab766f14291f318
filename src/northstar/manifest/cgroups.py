"""`cgroups`: limits on what the container uses.

The units are the kernel's, see Documentation/admin-guide/cgroup-v1 (cpusets, memory, blkio) and
cgroup-v2: each value is written to the file of the same meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from northstar.manifest import bounds
from northstar.manifest.kinds import (
    FILE_NAME_PATTERN,
    I64,
    U16,
    U64,
    Boolean,
    Integer,
    Text,
    file_name_rule,
)
from northstar.manifest.records import ListOf, MapOf, Record

PIDS_MAX: Final = 4 * 1024 * 1024
"""Most processes that a limit can name: PID_MAX_LIMIT of include/linux/threads.h."""

LEVELS_MAX: Final = 32
"""Most levels that the path of a cgroup may have.

The kernel counts what a process uses on every level above it, and sets no limit by itself."""

Attrs = Mapping[str, str]
"""Files of a controller, by name, and what is written to them as it is."""


class Pids(msgspec.Struct, frozen=True):
    """At most `max` processes and threads."""

    max: int


class Cpu(msgspec.Struct, frozen=True):
    """Controllers cpu and cpuset.

    Attributes:
        cpus: processors, as `0-2,7`.
        mems: memory nodes, as `0`.
        shares: weight, as in cgroup v1 (1024 is the default).
        quota: microseconds of processor time in each period; none if not positive.
        period: length of a period in microseconds.
        realtime_runtime: microseconds for real-time policies in each real-time period.
        realtime_period: length of a real-time period in microseconds.
        attrs: files of the controller.
    """

    cpus: str | None = None
    mems: str | None = None
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    attrs: Attrs = {}


class Memory(msgspec.Struct, frozen=True):
    """Controller memory; limits in bytes, -1 for none.

    Attributes:
        oom_monitor: report when the container runs out of memory.
        kernel_memory_limit: kernel memory (cgroup v1).
        memory_hard_limit: memory.
        memory_soft_limit: memory that is kept when the machine runs short.
        kernel_tcp_memory_limit: kernel memory of TCP (cgroup v1).
        memory_swap_limit: memory and swap together.
        swappiness: 0 to 100.
        attrs: files of the controller.
    """

    oom_monitor: bool = False
    kernel_memory_limit: int | None = None
    memory_hard_limit: int | None = None
    memory_soft_limit: int | None = None
    kernel_tcp_memory_limit: int | None = None
    memory_swap_limit: int | None = None
    swappiness: int | None = None
    attrs: Attrs = {}


class WeightDevice(msgspec.Struct, frozen=True):
    """Weights for one block device."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(msgspec.Struct, frozen=True):
    """A rate for one block device: bytes or operations in a second."""

    major: int
    minor: int
    rate: int


class Blkio(msgspec.Struct, frozen=True):
    """Controller blkio, or io in cgroup v2.

    Attributes:
        weight: against the other groups.
        leaf_weight: of the group's own processes against its sub-groups.
        weight_device: weights by device.
        throttle_read_bps_device: bytes read in a second, by device.
        throttle_read_iops_device: reads in a second, by device.
        throttle_write_bps_device: bytes written in a second, by device.
        throttle_write_iops_device: writes in a second, by device.
        attrs: files of the controller.
    """

    weight_device: tuple[WeightDevice, ...]
    throttle_read_bps_device: tuple[ThrottleDevice, ...]
    throttle_read_iops_device: tuple[ThrottleDevice, ...]
    throttle_write_bps_device: tuple[ThrottleDevice, ...]
    throttle_write_iops_device: tuple[ThrottleDevice, ...]
    weight: int | None = None
    leaf_weight: int | None = None
    attrs: Attrs = {}


class Cgroups(msgspec.Struct, frozen=True):
    """Limits by controller.

    Attributes:
        parent: the group below which the container's is made, relative to the hierarchy's root;
            None is the one of the runtime's configuration.
        pids: number of processes.
        cpu: processor time.
        memory: memory.
        blkio: block devices.
    """

    parent: str | None = None
    pids: Pids | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None
    blkio: Blkio | None = None


def _parent_rule(text: str) -> str | None:
    if text.startswith("/") or not text or {".", ".."} & set(text.split("/")):
        return "is not a relative path without '.' and '..'"
    if len(list(filter(None, text.split("/")))) > LEVELS_MAX:
        return f"has more than {LEVELS_MAX} levels"
    return None


_U16 = Integer(0, U16)
_U64 = Integer(0, U64)
_I64 = Integer(-I64 - 1, I64)
_TEXT = Text(most=bounds.CGROUP_VALUE_MAX)
_ATTRS = MapOf(
    Text(
        "the name of a file",
        most=bounds.FILE_NAME_MAX,
        check=file_name_rule,
        pattern=FILE_NAME_PATTERN,
    ),
    _TEXT,
    most=bounds.CGROUP_ATTRS_MAX,
)

_WEIGHT = Record(
    WeightDevice,
    {"major": _U64, "minor": _U64, "weight": _U16, "leaf_weight": _U16},
    ignore_unknown=True,
)
_THROTTLE = Record(
    ThrottleDevice, {"major": _U64, "minor": _U64, "rate": _U64}, ignore_unknown=True
)

CGROUPS = Record(
    Cgroups,
    {
        "parent": Text("a cgroup", most=bounds.PATH_MAX, check=_parent_rule, pattern="^[^/]"),
        "pids": Record(
            Pids, {"max": Integer(1, PIDS_MAX, "a number of processes")}, ignore_unknown=True
        ),
        "cpu": Record(
            Cpu,
            {
                "cpus": _TEXT,
                "mems": _TEXT,
                "shares": _U64,
                "quota": _I64,
                "period": _U64,
                "realtime_runtime": _I64,
                "realtime_period": _U64,
                "attrs": _ATTRS,
            },
            ignore_unknown=True,
        ),
        "memory": Record(
            Memory,
            {
                "oom_monitor": Boolean(),
                "kernel_memory_limit": _I64,
                "memory_hard_limit": _I64,
                "memory_soft_limit": _I64,
                "kernel_tcp_memory_limit": _I64,
                "memory_swap_limit": _I64,
                "swappiness": _U64,
                "attrs": _ATTRS,
            },
            always=("oom_monitor",),
            ignore_unknown=True,
        ),
        "blkio": Record(
            Blkio,
            {
                "weight": _U16,
                "leaf_weight": _U16,
                "weight_device": ListOf(tuple, _WEIGHT, most=bounds.BLOCK_DEVICES_MAX),
                "throttle_read_bps_device": ListOf(tuple, _THROTTLE, most=bounds.BLOCK_DEVICES_MAX),
                "throttle_read_iops_device": ListOf(
                    tuple, _THROTTLE, most=bounds.BLOCK_DEVICES_MAX
                ),
                "throttle_write_bps_device": ListOf(
                    tuple, _THROTTLE, most=bounds.BLOCK_DEVICES_MAX
                ),
                "throttle_write_iops_device": ListOf(
                    tuple, _THROTTLE, most=bounds.BLOCK_DEVICES_MAX
                ),
                "attrs": _ATTRS,
            },
            ignore_unknown=True,
        ),
    },
    ignore_unknown=True,
)
