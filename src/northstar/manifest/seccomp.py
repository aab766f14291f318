"""`seccomp`: the system calls that the payload may make. See seccomp(2)."""

import enum
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from northstar.manifest import bounds
from northstar.schema.context import Context, Path
from northstar.schema.node import Node, is_null
from northstar.schema.records import Field, ListOf, MapOf, Record
from northstar.schema.scalars import U64, Integer, Text
from northstar.schema.variants import Choice, Variant

INDEX_MAX: Final = 5
"""Index of the last argument of a system call (struct seccomp_data has six)."""


class SeccompProfile(enum.Enum):
    """A set of rules that is part of the runtime."""

    DEFAULT = "default"


_INDEX = Integer(0, INDEX_MAX, "the index of an argument", unit="index")
_NUMBER = Integer(0, U64, "a value of an argument", unit="value of the argument")


class SyscallAny(msgspec.Struct, frozen=True):
    """The call is allowed with any arguments."""


class SyscallArgs(msgspec.Struct, frozen=True):
    """The call is allowed if one of its arguments matches. `values` or `mask` is required."""

    index: Annotated[int, Field(_INDEX, "Index of the argument, from 0.", example=1)]
    values: Annotated[
        tuple[int, ...] | None,
        Field(
            ListOf(tuple, _NUMBER, max_entries=bounds.SYSCALL_VALUES_MAX),
            "The argument is one of these.",
            "any value",
            example=[21523, 21524],
        ),
    ] = None
    mask: Annotated[
        int | None,
        Field(
            _NUMBER, "The argument has no bit outside of this mask.", "any value", example=524288
        ),
    ] = None


SyscallRule = SyscallAny | SyscallArgs


def _values_or_mask(
    _values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    given = [nodes[name] for name in ("values", "mask") if name in nodes]
    if all(is_null(node) for node in given) and "index" in nodes:
        rule = "a rule for an argument needs 'values' or 'mask'"
        hint = "write {index: 0, values: [1]}"
        context.refuse(context.invalid(nodes["index"], path, rule, hint=hint))


_RULE: Variant[SyscallRule] = Variant(
    "a rule for a system call",
    {
        "any": SyscallAny(),
        "args": Record(
            SyscallArgs,
            check=_values_or_mask,
            rules=lambda: {"anyOf": [{"required": ["values"]}, {"required": ["mask"]}]},
        ),
    },
)


_ALLOW: MapOf[str, SyscallRule] = MapOf(
    Text("the name of a system call", most=bounds.SYSCALL_NAME_MAX),
    _RULE,
    max_entries=bounds.SYSCALLS_MAX,
)


class Seccomp(msgspec.Struct, frozen=True):
    """A filter of system calls."""

    profile: Annotated[
        SeccompProfile | None,
        Field(
            Choice(SeccompProfile, "a seccomp profile"),
            "A set of rules of the runtime: `default` allows what most programs need.",
            "none",
            example="default",
        ),
    ] = None
    allow: Annotated[
        Mapping[str, SyscallRule] | None,
        Field(
            _ALLOW,
            "System calls that are allowed in addition to the profile, by name. "
            "`nstar seccomp` makes the list from a log of strace(1).",
            "nothing",
            entry="SYSCALL",
            example={"ptrace": "any", "ioctl": {"args": {"index": 1, "values": [21523]}}},
        ),
    ] = None


SECCOMP = Record(Seccomp, form="{profile: default}")
