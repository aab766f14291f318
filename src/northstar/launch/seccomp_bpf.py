"""The part of a filter in front of libseccomp's, as BPF instructions.

New system calls need two rules that libseccomp lacks: one for all numbers from a number on, and an
answer other than the filter's default for a call whose arguments match no rule (ENOSYS for unknown
calls). So this part decides the calls after an architecture's own table, libseccomp's part all
others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from northstar.launch.seccomp_profile import Architecture
from northstar.linux.seccomp import SECCOMP_RET_ALLOW, Comparison

INSTRUCTIONS_MAX: Final = 4096
"""BPF_MAXINSNS, the kernel's limit."""

SIZE: Final = 8
"""Bytes of an instruction: struct sock_filter."""

# linux/bpf_common.h
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_NOT_LESS: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# struct seccomp_data, seccomp(2)
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16

_X32: Final = 0x40000000
"""__X32_SYSCALL_BIT; negative numbers are larger, too."""

_U32: Final = 2**32 - 1


class Decision(NamedTuple):
    """The decision on one system call.

    Attributes:
        admits: the call is allowed if one of these comparisons is true.
        otherwise: the filter's answer if none is true.
    """

    admits: tuple[Comparison, ...]
    otherwise: int


def newer(arch: Architecture, decisions: Mapping[int, Decision], unknown: int) -> bytes:
    """Return the instructions that decide calls from `arch.newer_from` on.

    Execution continues after them for older calls, other architectures, and numbers with the x32
    bit.

    Args:
        arch: the architecture.
        decisions: by call number.
        unknown: the answer to all other numbers.
    """
    cases = list(_cases(decisions, unknown))
    leave = _instruction(_JUMP, len(cases))
    head = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_IF_EQUAL, arch.token, 0, 3),
        _instruction(_LOAD, _NUMBER),
        _instruction(_IF_NOT_LESS, _X32, 1, 0),
        _instruction(_IF_NOT_LESS, arch.newer_from, 1, 0),
        leave,
    ]
    return b"".join(head + cases)


def _cases(decisions: Mapping[int, Decision], unknown: int) -> Iterator[bytes]:
    for number, (admits, otherwise) in sorted(decisions.items()):
        body = [*_admit(admits), _instruction(_RETURN, otherwise)]
        if admits:
            # The body may be longer than a conditional jump reaches (255 instructions).
            yield _instruction(_IF_EQUAL, number, 1, 0)
            yield _instruction(_JUMP, len(body))
        else:
            yield _instruction(_IF_EQUAL, number, 0, 1)
        yield from body
    yield _instruction(_RETURN, unknown)


def _admit(admits: Iterable[Comparison]) -> Iterator[bytes]:
    for argument, mask, value in admits:
        # All supported architectures are little-endian: the low half comes first.
        tests = [
            (_ARGUMENTS + 8 * argument + offset, half, value >> shift & _U32)
            for offset, shift in ((4, 32), (0, 0))
            if (half := mask >> shift & _U32)
        ]
        size = 1 + sum(2 if half == _U32 else 3 for _, half, _ in tests)
        for offset, half, wanted in tests:
            size -= 2 if half == _U32 else 3
            yield _instruction(_LOAD, offset)
            if half != _U32:
                yield _instruction(_AND, half)
            yield _instruction(_IF_EQUAL, wanted, 0, size)
        yield _instruction(_RETURN, SECCOMP_RET_ALLOW)


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
