"""`sched`: the scheduling policy of the payload. See sched(7)."""

from typing import Annotated

import msgspec

from northstar.schema.records import Field, Record
from northstar.schema.scalars import Integer
from northstar.schema.variants import Variant

_NICE = Field(
    Integer(-20, 19, "a nice value", unit="nice value"),
    "Nice value; a lower one gets more processor time.",
    example=5,
)
_PRIORITY = Field(
    Integer(1, 99, "a real-time priority", unit="priority"),
    "Real-time priority; the highest one runs.",
    example=20,
)


class SchedOther(msgspec.Struct, frozen=True):
    """SCHED_OTHER, the default policy of Linux."""

    nice: Annotated[int, _NICE]


class SchedBatch(msgspec.Struct, frozen=True):
    """SCHED_BATCH, for work without interaction."""

    nice: Annotated[int, _NICE]


class SchedFifo(msgspec.Struct, frozen=True):
    """SCHED_FIFO: real time, until the process yields or blocks."""

    priority: Annotated[int, _PRIORITY]


class SchedRoundRobin(msgspec.Struct, frozen=True):
    """SCHED_RR: real time, round robin in a priority. Northstar 0.9.2 refuses it."""

    priority: Annotated[int, _PRIORITY]


class SchedIdle(msgspec.Struct, frozen=True):
    """SCHED_IDLE, for background work of very low priority."""


class SchedDeadline(msgspec.Struct, frozen=True):
    """SCHED_DEADLINE. The kernel refuses it, since a manifest has no parameters for it."""


SchedPolicy = SchedOther | SchedBatch | SchedFifo | SchedRoundRobin | SchedIdle | SchedDeadline

_POLICY: Variant[SchedPolicy] = Variant(
    "a scheduling policy",
    {
        "idle": SchedIdle(),
        "deadline": SchedDeadline(),
        "other": Record(SchedOther, ignore_unknown=True),
        "batch": Record(SchedBatch, ignore_unknown=True),
        "fifo": Record(SchedFifo, ignore_unknown=True),
        "round_robin": Record(SchedRoundRobin, ignore_unknown=True),
    },
)


class Sched(msgspec.Struct, frozen=True):
    """Scheduling of the payload."""

    policy: Annotated[
        SchedPolicy, Field(_POLICY, "The scheduling policy.", example={"fifo": {"priority": 20}})
    ]


SCHED = Record(Sched, ignore_unknown=True)
