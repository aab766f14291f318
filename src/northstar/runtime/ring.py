"""The ring that contains the newest output of a container: the format, and a reader of it. Pure.

launcher/ring.h is the writer's definition. Page 0 has the positions, the capacity in bytes follows;
byte p of the run's records is at p modulo the capacity. All numbers are in native byte order.

A payload with CAP_SYS_PTRACE controls init, and so the content. So nothing in it is believed: what
no intact writer leaves behind raises `CorruptRingError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.model import NorthstarError

MAGIC: Final = b"NSLOG001"
PAGE: Final = 4096

HEAD_AT: Final = 64
"""Offset of the u64 `head` in page 0: end of the newest record."""
TAIL_AT: Final = 128
"""Offset of the u64 `tail`: begin of the oldest whole record."""
ARMED_AT: Final = 192
"""Offset of the u32 `armed`: 1 if a reader waits for the bell."""
ENDED_AT: Final = 256
"""Offset of the u32 `ended`: 1 if there will be no more records."""

DATA_MAX: Final = 16384
"""Most bytes of data in a record: one read(2) of init."""

_HEADER: Final = struct.Struct("=IB3sQQ")
_ALIGNMENT: Final = 8

RECORD_MAX: Final = _HEADER.size + DATA_MAX
"""Size of the largest record in the ring."""

_TIME_MAX: Final = 2**63 - 1


class CorruptRingError(NorthstarError):
    """The content of a ring is not what init writes."""


class Record(NamedTuple):
    """What one read(2) of init gave.

    Attributes:
        stream: 1 for stdout, 2 for stderr.
        time: ns of CLOCK_BOOTTIME when it was read.
        offset: bytes of output of this run before it, of both streams.
        data: at least one byte.
    """

    stream: int
    time: int
    offset: int
    data: bytes


class Batch(NamedTuple):
    """Some records, oldest first.

    Output is lost before a record whose `offset` is larger than what the reader has read: the
    difference, in bytes.

    Attributes:
        records: whole and consecutive.
        position: position in the ring to go on from.
    """

    records: tuple[Record, ...]
    position: int


class Positions:
    """The head and the tail of a ring, as last observed.

    Attributes:
        capacity: of the ring, in bytes.
        head: end of the newest record.
        tail: begin of the oldest whole record.
    """

    __slots__ = ("capacity", "head", "tail")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.head = 0
        self.tail = 0

    def observe(self, head: int, tail: int, head_after: int) -> None:
        """Take positions that were loaded in this order.

        The writer may have advanced both in between, so the tail may have passed `head`, but not
        `head_after`.

        Raises:
            CorruptRingError: no intact writer has written these.
        """
        if head < self.head or head_after < head or tail < self.tail:
            raise CorruptRingError("its head or tail went back")
        if tail > head_after or head - tail > self.capacity:
            raise CorruptRingError("its tail is not within a capacity before its head")
        if (head | tail | head_after) % _ALIGNMENT:
            raise CorruptRingError("its head or tail is not the begin of a record")
        self.head, self.tail = head, tail


def pieces(start: int, length: int, capacity: int) -> Iterator[tuple[int, int]]:
    """Yield where bytes of the run are in the ring's file: offset and length of each piece.

    Args:
        start: position of the first byte.
        length: number of bytes, at most the capacity.
        capacity: of the ring.
    """
    at = start % capacity
    first = min(length, capacity - at)
    if first:
        yield PAGE + at, first
    if length > first:
        yield PAGE, length - first


def parse(data: bytes, position: int, *, whole: bool, offsets: tuple[int, int]) -> Batch:
    """Decode the records in bytes of a ring.

    Args:
        data: begins with a record.
        position: position of the first byte of `data` in the run.
        whole: `data` ends with a record. Otherwise the last one may be incomplete; it is left out.
        offsets: least and most bytes of output before the first record. They differ where the
            reader has skipped records, or is at its first. Each byte of output takes a byte of the
            ring, so it is never more than `position`.

    Raises:
        CorruptRingError: init has not written these bytes.
    """
    records: list[Record] = []
    offset: int | None = None
    at, size = 0, len(data)
    while size - at >= _HEADER.size:
        length, stream, zeros, time, before = _HEADER.unpack_from(data, at)
        if not 1 <= length <= DATA_MAX or stream not in (1, 2) or zeros != b"\0\0\0":
            raise CorruptRingError("it contains a record with invalid fields")
        begin = at + _HEADER.size
        end = begin + length
        following = end + -end % _ALIGNMENT
        if following > size:
            break
        if offset is None and offsets[0] <= before <= offsets[1]:
            offset = before
        if before != offset or time > _TIME_MAX:
            raise CorruptRingError("it contains a record with an invalid sum or time")
        records.append(Record(stream, time, before, data[begin:end]))
        offset += length
        at = following
    if whole and at != size:
        raise CorruptRingError("its last record is not complete")
    if size >= RECORD_MAX and not records:
        raise CorruptRingError("it contains an endless record")
    return Batch(tuple(records), position + at)


def skip(data: bytes, at: int) -> tuple[int, int]:
    """Return where the record at an index ends, and the bytes of output up to its end.

    The record is not checked: the results may be anything, but the first is larger than `at`.
    """
    if len(data) - at < _HEADER.size:
        return len(data), 0
    length, _, _, _, before = _HEADER.unpack_from(data, at)
    return at + _HEADER.size + length + -length % _ALIGNMENT, before + length


def newest(data: bytes, cut: int, limit: int) -> bytes:
    """Return the newest records, and the end of the record before them, of `limit` bytes at most.

    Args:
        data: whole records.
        cut: index of the record whose end is returned.
        limit: less than the size of `data` from there on.
    """
    length, stream, zeros, time, before = _HEADER.unpack_from(data, cut)
    padding = -length % _ALIGNMENT
    following = cut + _HEADER.size + length + padding
    room = limit - (len(data) - following) - _HEADER.size - padding
    # As many bytes of padding as before: the sums stay possible, see `parse`.
    left = room - (room - length) % _ALIGNMENT
    if left <= 0:
        return data[following:]
    header = _HEADER.pack(left, stream, zeros, time, before + length - left)
    return header + data[following - padding - left :]
