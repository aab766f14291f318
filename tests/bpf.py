"""Runs seccomp filters: an interpreter of the BPF instructions that filters consist of.

Written from linux/filter.h and seccomp(2), to check filters that other code has compiled.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
U32 = 2**32 - 1


class Data(NamedTuple):
    """struct seccomp_data."""

    nr: int
    arch: int
    args: tuple[int, ...] = (0,) * 6
    instruction_pointer: int = 0

    def encode(self) -> bytes:
        return struct.pack("<IIQ6Q", self.nr & U32, self.arch, self.instruction_pointer, *self.args)


def decide(program: bytes, data: Data) -> int:
    """Return the result of a filter; AssertionError for a program that the kernel would refuse."""
    instructions = list(struct.iter_unpack("<HBBI", program))
    assert 0 < len(instructions) <= 4096
    words = struct.unpack("<16I", data.encode())
    accumulator = 0
    at = 0
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        match code:
            case 0x20:  # LD | W | ABS
                assert k % 4 == 0
                accumulator = words[k // 4]
            case 0x54:  # ALU | AND | K
                accumulator &= k
            case 0x05:  # JMP | JA
                at += k
            case 0x15:  # JMP | JEQ | K
                at += if_true if accumulator == k else if_false
            case 0x25:  # JMP | JGT | K
                at += if_true if accumulator > k else if_false
            case 0x35:  # JMP | JGE | K
                at += if_true if accumulator >= k else if_false
            case 0x06:  # RET | K
                return int(k)
            case _:
                raise AssertionError(f"instruction {at - 1} has the code {code:#x}")
