"""Fuzzes the reader of rings: any positions and records, and the properties of what is read.

An input is three positions and the content of a small ring. Run it for a time, or a number of
rounds::

    python -m tests.fuzz.ring --seconds 60
    python -m tests.fuzz.ring --count 1000000

An input that breaks a property is written to the corpus, which `test_ring.py` replays, and the exit
code is 1.
"""

from __future__ import annotations

import struct
import time

from northstar.runtime.ring import (
    PAGE,
    RECORD_MAX,
    CorruptRingError,
    Positions,
    Record,
    parse,
    pieces,
)
from tests.fuzz.texts import SLOW, Target

CAPACITY = 4096
_POSITIONS = struct.Struct("=QQQ")


def encode(*records: Record) -> bytes:
    """Return records as in a ring."""
    parts = []
    for record in records:
        head = struct.pack("=IB3xQQ", len(record.data), record.stream, record.time, record.offset)
        parts.append(head + record.data + bytes(-(len(head) + len(record.data)) % 8))
    return b"".join(parts)


def content(head: int, tail: int, data: bytes) -> bytes:
    """Return an input."""
    return _POSITIONS.pack(head, tail, head) + data


def read(data: bytes, start: int, length: int) -> bytes:
    """Read from a ring with this content; what it lacks is zero, as in a hole."""
    found = b""
    for offset, size in pieces(start, length, CAPACITY):
        assert offset >= PAGE
        assert offset + size <= PAGE + CAPACITY
        part = data[offset - PAGE : offset - PAGE + size]
        found += part + bytes(size - len(part))
    return found


def check(data: bytes) -> bool:
    """Assert the properties of an input, and return whether it is read."""
    started = time.process_time()
    if len(data) < _POSITIONS.size:
        return False
    head, tail, after = _POSITIONS.unpack_from(data)
    positions = Positions(CAPACITY)
    try:
        positions.observe(head, tail, after)
        if tail > head:
            return False
        length = head - tail
        assert length <= CAPACITY
        raw = read(data[_POSITIONS.size :], tail, length)
        batch = parse(raw, tail, whole=True, offsets=(0, tail))
    except CorruptRingError:
        return False
    finally:
        assert time.process_time() - started < SLOW
    assert batch.position == head
    assert len(encode(*batch.records)) == len(raw)
    offset = batch.records[0].offset if batch.records else 0
    assert 0 <= offset <= tail
    for record in batch.records:
        assert record.offset == offset
        assert 1 <= len(record.data) < RECORD_MAX
        assert record.stream in (1, 2)
        assert 0 <= record.time < 2**63
        offset += len(record.data)
    return True


_WRAPPED = encode(Record(1, 5, 71, b"z" * 33))
SEEDS = [
    content(0, 0, b""),
    content(64, 0, encode(Record(1, 1, 0, b"one\n"), Record(2, 2, 4, b"two\n"))),
    content(32, 0, encode(Record(1, 2**63 - 1, 0, b"x" * 8))),
    content(4096 + 48, 4096, encode(Record(2, 9, 3000, b"y" * 20))),
    content(8224, 8160, _WRAPPED[32:] + bytes(CAPACITY - 64) + _WRAPPED[:32]),
]
DICTIONARY = [
    *(struct.pack("=Q", n) for n in (0, 1, 8, 24, 64, 4096, 2**32, 2**63, 2**64 - 8, 2**64 - 1)),
    *(struct.pack("=IB3x", n, s) for n in (1, 16384, 16385, 2**32 - 1) for s in (0, 1, 2, 3)),
    encode(Record(1, 1, 0, b"more")),
]
TARGET = Target("ring", check, DICTIONARY, SEEDS)


if __name__ == "__main__":
    TARGET.main()
