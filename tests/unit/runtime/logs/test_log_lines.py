"""Lines of the output of containers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import InvalidValueError
from northstar.runtime.log_lines import (
    LINE_MAX,
    STDERR,
    STDOUT,
    Cursor,
    Gap,
    Line,
    LineReader,
    Part,
    Place,
)
from northstar.runtime.ring import Record


def records(pieces: Iterable[tuple[int, bytes]]) -> list[Record]:
    """Make records of a run, with times 10, 20, and so on."""
    made: list[Record] = []
    offset = 0
    for stream, data in pieces:
        made.append(Record(stream, 10 * len(made) + 10, offset, data))
        offset += len(data)
    return made


def read(
    found: Sequence[Record], place: Place | None = None, *, end: bool = True, base: int = 0
) -> list[Line | Gap]:
    """Return the lines and gaps of records."""
    reader = LineReader(place)
    items = [item for record in found for item in reader.feed(record, base)]
    return [*items, *reader.finish()] if end else items


def texts(items: Iterable[Line | Gap]) -> list[str | int]:
    return [item.text if isinstance(item, Line) else item.lost for item in items]


def lines_of(data: bytes) -> list[str | int]:
    return texts(read(records([(STDOUT, data)])))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\r\n\n\r\nlast", ["one", "two", "", "", "last"]),
        (b"no newline", ["no newline"]),
        (b"a\rb\n", ["a\rb"]),
        (b"\xff\x80A\n", ["\\xff\\x80A"]),
        (b"x" * 4095 + b"\n", ["x" * 4095]),
        (b"x" * 4096 + b"\n", ["x" * 4096]),
        (b"x" * 4096 + b"\r\n", ["x" * 4096]),
        (b"x" * 4096 + b"\ry\n", ["x" * 4096, "\ry"]),
        (b"x" * 4096 + b"\r", ["x" * 4096, "\r"]),
        (b"x" * 4097 + b"\n", ["x" * 4096, "x"]),
        (b"x" * 4095 + "é".encode() + b"\n", ["x" * 4095, "é"]),
        (b"x" * 4093 + "\U0001f600".encode() + b"\n", ["x" * 4093, "\U0001f600"]),
        (b"\x80" * 4097 + b"\n", ["\\x80" * 4096, "\\x80"]),
        (b"x" * 9000, ["x" * 4096, "x" * 4096, "x" * 808]),
    ],
)
def test_lines(data: bytes, lines: list[str]) -> None:
    assert lines_of(data) == lines


def test_every_byte_value() -> None:
    data = bytes(range(256))
    shown = "".join(map(str, lines_of(data.replace(b"\n", b""))))
    assert shown == data.replace(b"\n", b"").decode(errors="backslashreplace")
    assert "\\xff" in shown


def test_no_output_has_no_lines() -> None:
    assert read([]) == []


def test_a_line_has_the_time_of_its_first_byte() -> None:
    items = read(records([(1, b"be"), (2, b"err\n"), (1, b"gin\nnext"), (1, b"\n")]))
    assert [(item.stream, item.time, item.text) for item in items if isinstance(item, Line)] == [
        (STDERR, 20, "err"),
        (STDOUT, 10, "begin"),
        (STDOUT, 30, "next"),
    ]


def test_a_gap_ends_unfinished_lines_of_both_streams() -> None:
    found = records([(2, b"e"), (1, b"out"), (1, b"lost\n"), (2, b"rest\n")])
    del found[2]
    assert texts(read(found)) == ["e", "out", 5, "rest"]


def test_a_gap_at_the_begin_is_reported() -> None:
    assert texts(read(records([(1, b"lost"), (1, b"line\n")])[1:])) == [4, "line"]


def test_an_unfinished_line_waits() -> None:
    assert texts(read(records([(1, b"one\ntwo")]), end=False)) == ["one"]


def test_a_resumed_line_whose_begin_is_lost() -> None:
    """Of the unfinished line of stderr at the cursor, 3 of 5 bytes are there no more."""
    found = records([(2, b"abc"), (2, b"de"), (1, b"out\n"), (2, b"f\n")])
    first = read(found)[0]
    assert isinstance(first, Line)
    assert first.behind == Place(9, None, Part(0, 5))
    assert texts(read(found[1:], first.behind)) == [3, "def"]
    assert texts(read(found[2:], first.behind)) == [5, "f"]
    assert texts(read(found[3:], first.behind)) == [5, "f"]
    assert texts(read(found, first.behind)) == ["abcdef"]


_BYTES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"\n", b"\r\n", b"\r", b"line\n", "é€\U0001f600\n".encode(), b"x" * 40]),
    st.builds(
        lambda size, end: b"x" * size + end,
        st.integers(LINE_MAX - 3, LINE_MAX + 2),
        st.sampled_from([b"", b"\n", b"\r\n", b"\r", "€".encode(), "\U0001f600\n".encode()]),
    ),
)
_OUTPUT = st.lists(
    st.tuples(st.sampled_from([STDOUT, STDERR]), _BYTES.filter(bool)), min_size=1, max_size=12
)


def split(output: Sequence[tuple[int, bytes]], sizes: Sequence[int]) -> list[Record]:
    """Split output into records of these sizes, in turn."""
    pieces, number = [], 0
    for stream, data in output:
        at = 0
        while at < len(data):
            size = sizes[number % len(sizes)]
            pieces.append((stream, data[at : at + size]))
            at, number = at + size, number + 1
    return records(pieces)


def expected(data: bytes) -> list[str]:
    """Return the lines of one stream, in a simpler way."""
    *ended, last = data.split(b"\n")
    found = []
    for line in [*(one.removesuffix(b"\r") for one in ended), *([last] if last else [])]:
        rest = line
        while len(rest) > LINE_MAX:
            size = LINE_MAX
            while size > LINE_MAX - 3 and 0x80 <= rest[size] < 0xC0:
                size -= 1
            size = LINE_MAX if 0x80 <= rest[size] < 0xC0 else size
            found.append(rest[:size])
            rest = rest[size:]
        found.append(rest)
    return [one.decode(errors="backslashreplace") for one in found]


_SIZES = st.lists(st.one_of(st.integers(1, 9), st.integers(100, 5000)), min_size=1, max_size=6).map(
    lambda sizes: [*sizes, 1500]
)
"""Sizes of records: often small ones, but not thousands of them."""


@given(_OUTPUT, _SIZES)
def test_records_have_no_effect_on_lines(output: list[tuple[int, bytes]], sizes: list[int]) -> None:
    whole = [item for item in read(records(output)) if isinstance(item, Line)]
    pieces = [item for item in read(split(output, sizes)) if isinstance(item, Line)]
    assert [one._replace(time=0) for one in pieces] == [one._replace(time=0) for one in whole]
    assert sum(one.size for one in whole) == sum(len(data) for _, data in output)
    for stream in (STDOUT, STDERR):
        data = b"".join(part for number, part in output if number == stream)
        assert [one.text for one in whole if one.stream == stream] == expected(data)


@given(_OUTPUT, _SIZES, _SIZES, st.integers(0, 10**6))
def test_each_cursor_resumes_exactly(
    output: list[tuple[int, bytes]], sizes: list[int], others: list[int], base: int
) -> None:
    lines = read(split(output, sizes), Place(base), base=base)
    for number, line in enumerate(lines):
        assert isinstance(line, Line)
        cursor = Cursor.parse(str(Cursor(7, line.behind)))
        assert cursor == Cursor(7, line.behind)
        rest = read(split(output, others), cursor.place, base=base)
        assert texts(rest) == texts(lines[number + 1 :])


@given(_OUTPUT, _SIZES, st.data())
def test_read_and_lost_are_what_was_written(
    output: list[tuple[int, bytes]], sizes: list[int], data: st.DataObject
) -> None:
    """With any records missing, also after a cursor. The last byte is there."""
    found = split(output, sizes)
    written = sum(len(part) for _, part in output)
    lines = read(found)
    start = data.draw(st.integers(-1, len(lines) - 1))
    behind = None if start < 0 else lines[start]
    assert behind is None or isinstance(behind, Line)
    place = None if behind is None else behind.behind
    kept = data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    left = [one for one, there in zip(found, kept, strict=True) if there or one is found[-1]]
    before = sum(one.size for one in lines[: start + 1] if isinstance(one, Line))
    items = read(left, place)
    total = sum(one.size if isinstance(one, Line) else one.lost for one in items)
    assert before + total == written


_PART = st.none() | st.builds(Part, st.integers(0, 9000), st.integers(1, LINE_MAX + 1))


@given(_OUTPUT, _SIZES, st.integers(0, 20_000), _PART, _PART)
def test_any_cursor_of_a_client(
    output: list[tuple[int, bytes]],
    sizes: list[int],
    at: int,
    stdout: Part | None,
    stderr: Part | None,
) -> None:
    """Its memory is bounded, and no gap is negative."""
    reader = LineReader(Place(at, stdout, stderr))
    for record in split(output, sizes):
        for item in reader.feed(record, 0):
            assert isinstance(item, Line) or item.lost > 0
        for unfinished in reader._streams.values():
            assert unfinished.size <= 2 * LINE_MAX + 2
    for item in (*reader.skip(10**6, 0), *reader.finish()):
        assert isinstance(item, Line) or item.lost > 0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**63), st.data())
def test_cursors_keep_their_value(log: int, at: int, data: st.DataObject) -> None:
    def part() -> Part | None:
        if not at or data.draw(st.booleans()):
            return None
        begin = data.draw(st.integers(0, at - 1))
        return Part(begin, data.draw(st.integers(1, min(at - begin, LINE_MAX + 1))))

    cursor = Cursor(log, Place(at, part(), part()))
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    ["", "1", "1-", "-1", "01-2", "1-2-", "1-2-o1", "1-2-o1+0", "1-2-o1+2", "1-2-e0+3", "1-2-o2+1",
     "1-2-e0+1-o0+1", "1-2000-o0+1002", "1-2 ", "1-2\n", "A-1", "1-" + "f" * 17, "\u0661-1"],
)  # fmt: skip
def test_an_invalid_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is not a cursor"):
        Cursor.parse(text)


@given(st.text("0123456789abcdef-oe+", max_size=40))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except InvalidValueError:
        return
    assert str(cursor) == text
