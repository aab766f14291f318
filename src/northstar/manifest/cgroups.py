"""`cgroups`: limits on the resources of the container.

The units are those of the kernel, see Documentation/admin-guide/cgroup-v1 (cpusets, memory, blkio)
and cgroup-v2: each value is written to the corresponding file.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from northstar.manifest import bounds
from northstar.schema.records import Field, ListOf, MapOf, Record
from northstar.schema.scalars import (
    I64,
    U16,
    U64,
    Boolean,
    Integer,
    Text,
    file_name,
)
from northstar.schema.values import CGROUP_LEVELS_MAX

PIDS_MAX: Final = 4 * 1024 * 1024
"""Largest limit on processes: PID_MAX_LIMIT of include/linux/threads.h."""

_TEXT: Final = Text(most=bounds.CGROUP_VALUE_MAX)
_US: Final = Integer(0, U64, unit="microseconds")
_SIGNED_US: Final = Integer(-I64 - 1, I64, unit="microseconds")
_BYTES: Final = Integer(-I64 - 1, I64, unit="bytes, -1 for no limit")
_WEIGHT: Final = Integer(0, U16, unit="weight")
_SHARES: Final = Integer(0, U64, unit="weight")
_PERCENT: Final = Integer(0, U64, unit="percent")
_PIDS: Final = Integer(1, PIDS_MAX, "a number of processes", unit="processes")
_RATE: Final = Integer(0, U64, unit="bytes or operations per second")
_DEVICE: Final = Integer(0, U64, unit="device number")

Attrs = Mapping[str, str]
"""Names of files of a controller, and the text that is written to each, unchanged."""

_ATTRS: Final = MapOf(
    file_name("the name of a file", bounds.FILE_NAME_MAX),
    _TEXT,
    max_entries=bounds.CGROUP_ATTRS_MAX,
)


def _attrs(file: str, text: str) -> Field:
    """Return the field of raw files, with an example."""
    meaning = "Names of files of the controller, and the text that is written to each, unchanged."
    return Field(_ATTRS, meaning, example={file: text})


_KERNEL: Final = "the kernel's"


class Pids(msgspec.Struct, frozen=True):
    """Controller pids."""

    max: Annotated[
        int,
        Field(
            _PIDS, "Maximum number of processes and threads. A fork beyond it fails.", example=64
        ),
    ]


class Cpu(msgspec.Struct, frozen=True):
    """Controllers cpu and cpuset."""

    cpus: Annotated[
        str | None, Field(_TEXT, "Processors, such as `0-2,7`.", "all", example="0-1")
    ] = None
    mems: Annotated[str | None, Field(_TEXT, "Memory nodes, such as `0`.", "all", example="0")] = (
        None
    )
    shares: Annotated[
        int | None,
        Field(
            _SHARES,
            "Weight among sibling groups when processors are busy, as cpu.shares of cgroup v1.",
            "1024",
            example=512,
        ),
    ] = None
    quota: Annotated[
        int | None,
        Field(
            _SIGNED_US,
            "Processor time per period, of all processors together; no limit if not positive.",
            "no limit",
            example=50000,
        ),
    ] = None
    period: Annotated[
        int | None, Field(_US, "Length of a period of `quota`.", _KERNEL, example=100000)
    ] = None
    realtime_runtime: Annotated[
        int | None,
        Field(
            _SIGNED_US,
            "Processor time of real-time policies per real-time period (cgroup v1).",
            _KERNEL,
            example=10000,
        ),
    ] = None
    realtime_period: Annotated[
        int | None,
        Field(_US, "Length of a real-time period (cgroup v1).", _KERNEL, example=1000000),
    ] = None
    attrs: Annotated[Attrs, _attrs("cpu.idle", "1")] = {}


class Memory(msgspec.Struct, frozen=True):
    """Controller memory."""

    oom_monitor: Annotated[
        bool,
        Field(
            Boolean(),
            "Report in the log and to clients when the container runs out of memory.",
            always=True,
            example=True,
        ),
    ] = False
    kernel_memory_limit: Annotated[
        int | None,
        Field(_BYTES, "Limit of kernel memory (cgroup v1).", "no limit", example=8388608),
    ] = None
    memory_hard_limit: Annotated[
        int | None,
        Field(
            _BYTES,
            "Limit of memory, with its part of the page cache. If the container needs more, the "
            "kernel kills a process of it.",
            "no limit",
            example=33554432,
        ),
    ] = None
    memory_soft_limit: Annotated[
        int | None,
        Field(
            _BYTES,
            "Memory that the kernel does not reclaim while other groups have more than theirs.",
            _KERNEL,
            example=16777216,
        ),
    ] = None
    kernel_tcp_memory_limit: Annotated[
        int | None,
        Field(_BYTES, "Limit of kernel memory of TCP (cgroup v1).", "no limit", example=1048576),
    ] = None
    memory_swap_limit: Annotated[
        int | None,
        Field(_BYTES, "Limit of memory and swap together.", "no limit", example=67108864),
    ] = None
    swappiness: Annotated[
        int | None,
        Field(
            _PERCENT,
            "Tendency to swap, 0 to 100. cgroup v2 has only 0: no swap.",
            _KERNEL,
            example=0,
        ),
    ] = None
    attrs: Annotated[Attrs, _attrs("memory.oom.group", "1")] = {}


_MAJOR: Final = Field(_DEVICE, "Major number of the block device, see lsblk(8).", example=179)
_MINOR: Final = Field(_DEVICE, "Minor number of the block device.", example=0)
_GROUP: Final = Field(_WEIGHT, "Weight among sibling groups.", _KERNEL, example=500)
_LEAF_WEIGHT: Final = Field(
    _WEIGHT,
    "Weight of the processes of the group itself among its child groups (cgroup v1).",
    _KERNEL,
    example=500,
)


class WeightDevice(msgspec.Struct, frozen=True):
    """Weights for one block device."""

    major: Annotated[int, _MAJOR]
    minor: Annotated[int, _MINOR]
    weight: Annotated[int | None, _GROUP] = None
    leaf_weight: Annotated[int | None, _LEAF_WEIGHT] = None


class ThrottleDevice(msgspec.Struct, frozen=True):
    """A rate limit for one block device."""

    major: Annotated[int, _MAJOR]
    minor: Annotated[int, _MINOR]
    rate: Annotated[int, Field(_RATE, "Limit per second.", example=1048576)]


def _devices(struct: type[msgspec.Struct]) -> ListOf[Any]:
    record = Record(struct, ignore_unknown=True)
    return ListOf(tuple, record, max_entries=bounds.BLOCK_DEVICES_MAX)


_WEIGHTS: Final = _devices(WeightDevice)
_THROTTLES: Final = _devices(ThrottleDevice)
_Throttles = tuple[ThrottleDevice, ...]
_THROTTLE_EXAMPLE: Final = [{"major": 179, "minor": 0, "rate": 1048576}]


class Blkio(msgspec.Struct, frozen=True, kw_only=True):
    """Controller blkio, or io in cgroup v2. The five lists are required, and may be empty."""

    weight: Annotated[int | None, _GROUP] = None
    leaf_weight: Annotated[int | None, _LEAF_WEIGHT] = None
    weight_device: Annotated[
        tuple[WeightDevice, ...], Field(_WEIGHTS, "Weights by device.", example=[], entry="DEVICE")
    ]
    throttle_read_bps_device: Annotated[
        _Throttles,
        Field(
            _THROTTLES,
            "Bytes read per second, by device.",
            example=_THROTTLE_EXAMPLE,
            entry="DEVICE",
        ),
    ]
    throttle_read_iops_device: Annotated[
        _Throttles, Field(_THROTTLES, "Reads per second, by device.", example=[], entry="DEVICE")
    ]
    throttle_write_bps_device: Annotated[
        _Throttles,
        Field(
            _THROTTLES,
            "Bytes written per second, by device.",
            example=_THROTTLE_EXAMPLE,
            entry="DEVICE",
        ),
    ]
    throttle_write_iops_device: Annotated[
        _Throttles, Field(_THROTTLES, "Writes per second, by device.", example=[], entry="DEVICE")
    ]
    attrs: Annotated[Attrs, _attrs("io.bfq.weight", "200")] = {}


def _parent_rule(text: str) -> str | None:
    if text.startswith("/") or not text or {".", ".."} & set(text.split("/")):
        return "is not a relative path without '.' and '..'"
    if len(list(filter(None, text.split("/")))) > CGROUP_LEVELS_MAX:
        return f"has more than {CGROUP_LEVELS_MAX} levels"
    return None


class Cgroups(msgspec.Struct, frozen=True):
    """Limits by controller."""

    parent: Annotated[
        str | None,
        Field(
            Text("a cgroup", most=bounds.PATH_MAX, check=_parent_rule, pattern="^[^/]"),
            "Parent of the container's cgroup, relative to the root of the hierarchy.",
            "the cgroup of the runtime's configuration",
            example="northstar/background",
        ),
    ] = None
    pids: Annotated[
        Pids | None,
        Field(
            Record(Pids, ignore_unknown=True),
            "Limit of the number of processes. Northstar 0.9.2 ignores it.",
            "no limit",
            since="0.1.0",
        ),
    ] = None
    cpu: Annotated[
        Cpu | None,
        Field(Record(Cpu, ignore_unknown=True), "Limits of processor time.", "no limits"),
    ] = None
    memory: Annotated[
        Memory | None, Field(Record(Memory, ignore_unknown=True), "Limits of memory.", "no limits")
    ] = None
    blkio: Annotated[
        Blkio | None,
        Field(Record(Blkio, ignore_unknown=True), "Limits on block devices.", "no limits"),
    ] = None


CGROUPS = Record(Cgroups, ignore_unknown=True)
