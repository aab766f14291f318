"""The reader of rings: what an intact writer leaves behind is read, all else is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.runtime.ring import (
    DATA_MAX,
    PAGE,
    RECORD_MAX,
    Batch,
    CorruptRingError,
    Positions,
    Record,
    parse,
    pieces,
)

U64 = st.integers(0, 2**64 - 1)


def encode(record: Record) -> bytes:
    head = struct.pack("=IB3xQQ", len(record.data), record.stream, record.time, record.offset)
    data = head + record.data
    return data + b"\xee" * (-len(data) % 8)  # padding has any content


def consecutive(parts: list[tuple[int, int, bytes]], offset: int) -> list[Record]:
    records = []
    for stream, time, data in parts:
        records.append(Record(stream, time, offset, data))
        offset += len(data)
    return records


RECORDS = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.integers(0, 2**63 - 1), st.binary(min_size=1)), max_size=8
)


@given(RECORDS, st.integers(0, 2**40))
def test_round_trip(parts: list[tuple[int, int, bytes]], offset: int) -> None:
    records = consecutive(parts, offset)
    data = b"".join(map(encode, records))
    position = 2**41
    batch = parse(data, position, whole=True, offsets=(offset, offset))
    assert batch == Batch(tuple(records), position + len(data))


@given(RECORDS, st.data())
def test_an_incomplete_last_record_is_left_for_the_next_read(
    parts: list[tuple[int, int, bytes]], draw: st.DataObject
) -> None:
    records = consecutive(parts, 0)
    encoded = [encode(record) for record in records]
    data = b"".join(encoded)
    cut = data[: draw.draw(st.integers(0, len(data)))]
    batch = parse(cut, 0, whole=False, offsets=(0, 0))
    assert list(batch.records) == records[: len(batch.records)]
    assert batch.position == sum(map(len, encoded[: len(batch.records)]))
    assert len(cut) - batch.position < 24 + 2**16
    if batch.position != len(cut):
        with pytest.raises(CorruptRingError):
            parse(cut, 0, whole=True, offsets=(0, 0))


GOOD = encode(Record(1, 5, 0, b"x" * 20))


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("=IB3xQQ", 0, 1, 0, 0),
        struct.pack("=IB3xQQ", DATA_MAX + 1, 1, 0, 0) + bytes(DATA_MAX + 8),
        struct.pack("=IB3xQQ", 2**32 - 1, 1, 0, 0),
        struct.pack("=IB3xQQ", 8, 0, 0, 0) + bytes(8),
        struct.pack("=IB3xQQ", 8, 3, 0, 0) + bytes(8),
        struct.pack("=IBBxxQQ", 8, 1, 1, 0, 0) + bytes(8),
        struct.pack("=IB3xQQ", 8, 1, 2**63, 0) + bytes(8),
        struct.pack("=IB3xQQ", 8, 1, 0, 7) + bytes(8),
        struct.pack("=IB3xQQ", 8, 1, 0, 2**64 - 1) + bytes(8),
        GOOD + encode(Record(1, 5, 19, b"x")),
        GOOD + encode(Record(1, 5, 21, b"x")),
        GOOD + b"\0" * 24,
    ],
    ids=[
        "no data",
        "too long",
        "endless",
        "no stream",
        "another stream",
        "not zero",
        "time",
        "sum",
        "endless sum",
        "sum that repeats",
        "sum that skips",
        "zeros behind",
    ],
)
def test_invalid_records(bad: bytes) -> None:
    with pytest.raises(CorruptRingError):
        parse(bad, 0, whole=False, offsets=(0, 0))


def test_the_first_sum_after_a_gap_is_within_what_was_skipped() -> None:
    data = encode(Record(2, 1, 500, b"abc"))
    for offsets in ((500, 500), (0, 500), (500, 10**6), (0, 2**64)):
        assert parse(data, 2**20, whole=True, offsets=offsets).records[0].offset == 500
    for offsets in ((501, 600), (0, 499)):
        with pytest.raises(CorruptRingError, match="sum"):
            parse(data, 2**20, whole=True, offsets=offsets)


@given(st.binary(max_size=RECORD_MAX + 100), st.booleans(), st.integers(0, 2**40))
def test_any_bytes(data: bytes, whole: bool, position: int) -> None:
    try:
        batch = parse(data, position, whole=whole, offsets=(0, position))
    except CorruptRingError:
        return
    assert position <= batch.position <= position + len(data)
    assert sum(len(record.data) + 24 for record in batch.records) <= len(data)


@given(U64, U64, U64)
def test_any_positions(head: int, tail: int, after: int) -> None:
    positions = Positions(PAGE * 16)
    try:
        positions.observe(head, tail, after)
    except CorruptRingError:
        assert (positions.head, positions.tail) == (0, 0)
    else:
        assert head <= after
        assert tail <= after
        assert head - tail <= PAGE * 16
        assert not (head | tail) % 8


def test_positions_never_go_back() -> None:
    positions = Positions(PAGE)
    positions.observe(800, 400, 800)
    for head, tail in ((792, 400), (800, 392), (0, 0)):
        with pytest.raises(CorruptRingError, match="back"):
            positions.observe(head, tail, 800)
    # The writer has advanced the tail over the head that was loaded before it.
    positions.observe(800, 1600, 2400)
    with pytest.raises(CorruptRingError, match="capacity"):
        positions.observe(8000, 1600, 8000)
    with pytest.raises(CorruptRingError, match="begin of a record"):
        positions.observe(2404, 1600, 2408)


@given(st.integers(0, 2**50), st.integers(0, PAGE * 4))
def test_pieces_cover_the_bytes_in_order(start: int, length: int) -> None:
    capacity = PAGE * 4
    found = list(pieces(start, length, capacity))
    assert sum(size for _, size in found) == length
    at = start
    for offset, size in found:
        assert size
        assert offset == PAGE + at % capacity
        assert offset + size <= PAGE + capacity
        at += size
