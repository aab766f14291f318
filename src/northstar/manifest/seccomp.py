"""`seccomp`: the system calls that the payload may make. See seccomp(2)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from northstar.manifest import bounds
from northstar.manifest.kinds import U64, Choice, Integer, Text
from northstar.manifest.node import Context, Node, invalid, is_null
from northstar.manifest.records import ListOf, MapOf, Record
from northstar.manifest.variants import Variant

INDEX_MAX: Final = 5
"""Index of the last argument of a system call (struct seccomp_data has six)."""


class SeccompProfile(enum.Enum):
    """A set of rules that comes with the runtime."""

    DEFAULT = "default"


class SyscallAny(msgspec.Struct, frozen=True):
    """The call is allowed whatever its arguments are."""


class SyscallArgs(msgspec.Struct, frozen=True):
    """The call is allowed if one of its arguments fits; `values` or `mask` is not None.

    Attributes:
        index: which argument, from 0.
        values: the argument is one of these.
        mask: the argument has no bit outside of these.
    """

    index: int
    values: tuple[int, ...] | None = None
    mask: int | None = None


SyscallRule = SyscallAny | SyscallArgs


class Seccomp(msgspec.Struct, frozen=True):
    """A filter: what the profile allows, and what `allow` adds by the names of system calls."""

    profile: SeccompProfile | None = None
    allow: Mapping[str, SyscallRule] | None = None


def _values_or_mask(
    _values: dict[Any, Any], nodes: dict[str, Node], path: str, context: Context
) -> None:
    given = [nodes[name] for name in ("values", "mask") if name in nodes]
    if all(is_null(node) for node in given) and "index" in nodes:
        context.refuse(
            invalid(nodes["index"], path, "a rule for an argument needs 'values' or 'mask'")
        )


_NUMBER = Integer(0, U64, "a value of an argument")

_ARGS = Record(
    SyscallArgs,
    {
        "index": Integer(0, INDEX_MAX, "the index of an argument"),
        "values": ListOf(tuple, _NUMBER, most=bounds.SYSCALL_VALUES_MAX),
        "mask": _NUMBER,
    },
    check=_values_or_mask,
    rules={"anyOf": [{"required": ["values"]}, {"required": ["mask"]}]},
)

_RULE: Variant[SyscallRule] = Variant(
    "a rule for a system call", units={"any": SyscallAny}, data={"args": (SyscallArgs, _ARGS)}
)

SECCOMP = Record(
    Seccomp,
    {
        "profile": Choice(SeccompProfile, "a seccomp profile"),
        "allow": MapOf(
            Text("the name of a system call", most=bounds.SYSCALL_NAME_MAX),
            _RULE,
            most=bounds.SYSCALLS_MAX,
        ),
    },
)
