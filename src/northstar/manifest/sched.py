"""`sched`: the scheduling policy of the payload. See sched(7)."""

from __future__ import annotations

import msgspec

from northstar.manifest.kinds import Integer
from northstar.manifest.records import Record
from northstar.manifest.variants import Variant


class SchedOther(msgspec.Struct, frozen=True):
    """SCHED_OTHER with a nice value, -20 to 19."""

    nice: int


class SchedBatch(msgspec.Struct, frozen=True):
    """SCHED_BATCH with a nice value, -20 to 19."""

    nice: int


class SchedFifo(msgspec.Struct, frozen=True):
    """SCHED_FIFO with a real-time priority, 1 to 99."""

    priority: int


class SchedRoundRobin(msgspec.Struct, frozen=True):
    """SCHED_RR with a real-time priority, 1 to 99."""

    priority: int


class SchedIdle(msgspec.Struct, frozen=True):
    """SCHED_IDLE."""


class SchedDeadline(msgspec.Struct, frozen=True):
    """SCHED_DEADLINE. The manifest has no parameters for it, so that the kernel refuses it."""


SchedPolicy = SchedOther | SchedBatch | SchedFifo | SchedRoundRobin | SchedIdle | SchedDeadline


class Sched(msgspec.Struct, frozen=True):
    """Scheduling of the payload."""

    policy: SchedPolicy


_NICE = Integer(-20, 19, "a nice value")
_PRIORITY = Integer(1, 99, "a real-time priority")

_POLICY: Variant[SchedPolicy] = Variant(
    "a scheduling policy",
    units={"idle": SchedIdle, "deadline": SchedDeadline},
    data={
        "other": (SchedOther, Record(SchedOther, {"nice": _NICE}, ignore_unknown=True)),
        "batch": (SchedBatch, Record(SchedBatch, {"nice": _NICE}, ignore_unknown=True)),
        "fifo": (SchedFifo, Record(SchedFifo, {"priority": _PRIORITY}, ignore_unknown=True)),
        "round_robin": (
            SchedRoundRobin,
            Record(SchedRoundRobin, {"priority": _PRIORITY}, ignore_unknown=True),
        ),
    },
)

SCHED = Record(Sched, {"policy": _POLICY}, ignore_unknown=True)
