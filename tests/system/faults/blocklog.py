"""The log of a disk's writes, and the possible contents of the disk after a power cut.

The format is that of dm-log-writes (device-mapper/log-writes.rst in the kernel) and of QEMU's
driver blklogwrites.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = 0x6A736677736872
"""The magic of the superblock; version, number of entries and sector size follow it."""

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8

_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class Write(NamedTuple):
    """One entry: data for the disk at a byte offset; a flush has no data."""

    offset: int
    data: bytes
    flags: int


def parse(log: bytes) -> list[Write]:
    """Read a log.

    Raises:
        ValueError: it is no such log, or it is truncated.
    """
    if len(log) < _SUPER.size:
        raise ValueError("the log has no superblock")
    magic, version, count, size = _SUPER.unpack_from(log)
    if magic != MAGIC or version != 1 or size < _ENTRY.size:
        raise ValueError("this is no log of writes")
    writes, position = [], size
    for _ in range(count):
        if position + size > len(log):
            raise ValueError("the log is cut off")
        sector, sectors, flags, _ = _ENTRY.unpack_from(log, position)
        position += size
        data = b""
        if not flags & DISCARD:
            data = log[position : position + sectors * size]
            if len(data) < sectors * size:
                raise ValueError("the log is cut off")
            position += len(data)
        writes.append(Write(sector * size, data, flags))
    return writes


def states(
    image: bytes, writes: list[Write], generator: random.Random, block: int = 512
) -> Iterator[State]:
    """Yield the possible contents of the disk after each number of writes and a power cut.

    First with all writes complete; then, if some may still be in the disk's cache, with some of
    these missing, and the last present one torn.

    Args:
        image: the disk before the first write.
        writes: all writes, in their order.
        generator: chooses what is missing.
        block: bytes that the disk writes as a whole, a multiple of 512.
    """
    durable = bytearray(image)
    cached: list[Write] = []
    for number, write in enumerate(writes, start=1):
        if write.flags & FLUSH:
            for earlier in cached:
                _apply(durable, earlier)
            cached = []
        if write.data:
            cached.append(write)
        whole = bytearray(durable)
        for each in cached:
            _apply(whole, each)
        yield State(number, "all", bytes(whole))
        loose = [each for each in cached if not each.flags & FUA]
        if loose:
            kept = [each for each in cached if each.flags & FUA or generator.random() < 0.5]
            some = bytearray(durable)
            for each in kept[:-1]:
                _apply(some, each)
            if kept:
                last = kept[-1]
                length = len(last.data)
                if not last.flags & FUA:
                    length = generator.randrange(0, length + 1, block)
                _apply(some, last._replace(data=last.data[:length]))
            yield State(number, "some", bytes(some))


class State(NamedTuple):
    """The disk after a number of writes, complete or not."""

    number: int
    which: str
    image: bytes


def _apply(image: bytearray, write: Write) -> None:
    image[write.offset : write.offset + len(write.data)] = write.data
