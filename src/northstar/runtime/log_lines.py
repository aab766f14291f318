"""Lines of a container's output, made of the records of its rings. Pure.

All positions here count the bytes of output of all runs of a container, of both streams together:
the base of a run, and the offset of a record in it. So a position names a run and a byte of it.

The records of both streams interleave. At the end of a line of one stream, a line of the other may
have begun, so a place needs more than one position: see `Place`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.model import InvalidValueError
from northstar.runtime.ring import Record

LINE_MAX: Final = 4096
"""Longest line in bytes, without its end; a longer one is split."""

STDOUT: Final = 1
STDERR: Final = 2

_LETTERS: Final = {STDOUT: "o", STDERR: "e"}
_NUMBER: Final = "(0|[1-9a-f][0-9a-f]{0,15})"
_CURSOR: Final = re.compile(
    rf"{_NUMBER}-{_NUMBER}(?:-o{_NUMBER}\+{_NUMBER})?(?:-e{_NUMBER}\+{_NUMBER})?"
)


class Part(NamedTuple):
    """The bytes of an unfinished line.

    Attributes:
        begin: position of its first byte.
        size: number of bytes.
    """

    begin: int
    size: int


class Place(NamedTuple):
    """A place between two bytes of output, and what is unfinished there.

    Attributes:
        at: the position; all lines that end before it were read.
        stdout: the unfinished line of stdout, of bytes before `at`; None if there is none.
        stderr: the same of stderr.
    """

    at: int
    stdout: Part | None = None
    stderr: Part | None = None

    @property
    def first(self) -> int:
        """Position of the oldest byte that belongs to a later line."""
        return min([self.at, *(part.begin for part in (self.stdout, self.stderr) if part)])


class Cursor(NamedTuple):
    """A place in the log of a container.

    Attributes:
        log: identifies the log: ns of CLOCK_BOOTTIME at its first run.
        place: the place in it.
    """

    log: int
    place: Place

    def __str__(self) -> str:
        """Return its text, of hexadecimal numbers."""
        parts = [f"{self.log:x}-{self.place.at:x}"]
        for stream, part in ((STDOUT, self.place.stdout), (STDERR, self.place.stderr)):
            if part is not None:
                parts.append(f"{_LETTERS[stream]}{part.begin:x}+{part.size:x}")
        return "-".join(parts)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Parse a text.

        Raises:
            InvalidValueError: it is not the text of a cursor.
        """
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise InvalidValueError(
                f"{text[:100]!r} is not a cursor", hint="use one that came with a line of the log"
            )
        log, at, *numbers = (None if one is None else int(one, 16) for one in found.groups())
        assert log is not None
        assert at is not None
        parts: list[Part | None] = []
        for begin, count in (numbers[:2], numbers[2:]):
            if begin is None or count is None:
                parts.append(None)
            elif not 1 <= count <= min(at - begin, LINE_MAX + 1):
                raise InvalidValueError(
                    f"{text!r} is not a cursor: it has {count} bytes from {begin} to {at}",
                    hint="use one that came with a line of the log",
                )
            else:
                parts.append(Part(begin, count))
        return cls(log, Place(at, *parts))


class Line(NamedTuple):
    """A line, or a part of one that is too long or unfinished.

    Attributes:
        stream: 1 stdout, 2 stderr.
        time: of the record that has its first byte, in ns of CLOCK_BOOTTIME.
        text: without the line's end; bytes that are not UTF-8 are escaped.
        size: number of bytes of output that it was made of, with the line's end.
        behind: the place behind it.
    """

    stream: int
    time: int
    text: str
    size: int
    behind: Place


class Gap(NamedTuple):
    """Output that was overwritten before it was read.

    Attributes:
        lost: number of bytes.
        time: of the record behind it, in ns of CLOCK_BOOTTIME.
    """

    lost: int
    time: int


class _Unfinished:
    """The bytes of one stream that are not part of a line yet.

    Attributes:
        data: the bytes, from `start` on.
        start: index of the first one.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.start = 0
        # Of each record: the index of its first byte, its position, and its time.
        self._indexes: list[int] = []
        self._records: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return len(self.data) - self.start

    def append(self, data: bytes, position: int, time: int) -> None:
        """Append the bytes of a record; earlier bytes that were cut are released."""
        if self.start:
            kept = bisect_right(self._indexes, self.start) - 1 if self.size else len(self._indexes)
            del self.data[: self.start], self._records[:kept]
            self._indexes = [index - self.start for index in self._indexes[kept:]]
            self.start = 0
        self._indexes.append(len(self.data))
        self._records.append((position, time))
        self.data += data

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def position(self, index: int) -> int:
        """Return the position of a byte."""
        at = bisect_right(self._indexes, index) - 1
        return self._records[at][0] + index - self._indexes[at]

    def time(self) -> int:
        """Return the time of the first byte."""
        return self._records[bisect_right(self._indexes, self.start) - 1][1]

    def part(self, end: int | None = None) -> Part | None:
        """Return the unfinished line up to an index; None if there is none."""
        count = (len(self.data) if end is None else end) - self.start
        return Part(self.position(self.start), count) if count else None

    def next_line(self) -> tuple[int, int, int] | None:
        """Return the length of the next line, what to cut, and the index behind its last byte.

        A line is split when the byte that makes it too long is there: so records have no effect.
        """
        data, start = self.data, self.start
        end = data.find(b"\n", start, start + LINE_MAX + 2)
        if end >= 0:
            length = end - start
            if length and data[end - 1] == ord("\r"):
                length -= 1
            if length <= LINE_MAX:
                return length, end + 1 - start, end + 1
        over = start + LINE_MAX
        if len(data) <= over or (data[over] == ord("\r") and len(data) == over + 1):
            return None
        length = self._boundary()
        return length, length, over + 1 + (data[over] == ord("\r"))

    def _boundary(self) -> int:
        """Return where to split a line that is too long: not within a UTF-8 character."""
        for length in range(LINE_MAX, LINE_MAX - 4, -1):
            if self.data[self.start + length] & 0xC0 != 0x80:
                return length
        return LINE_MAX


class LineReader:
    """Makes lines of the records of a container, in order, from one run to the next.

    The order of lines is that of their last bytes.

    Attributes:
        position: the position behind what was read.
    """

    def __init__(self, place: Place | None = None) -> None:
        """Begin behind a place: only lines that end after it are made."""
        self._streams = {STDOUT: _Unfinished(), STDERR: _Unfinished()}
        self._place = place or Place(0)
        self._parts = {STDOUT: self._place.stdout, STDERR: self._place.stderr}
        # Bytes of the unfinished lines at the place that were not found yet.
        self._missing = {stream: part.size for stream, part in self._parts.items() if part}
        self.position = self._place.first

    def feed(self, record: Record, base: int) -> Iterator[Line | Gap]:
        """Make lines of the next record; the iterator must be exhausted before the next call.

        Args:
            record: the record.
            base: position of the first byte of its run.
        """
        begin = base + record.offset
        if begin > self.position:
            yield from self.skip(begin, record.time)
        data = record.data[max(0, self.position - begin) :]
        if self.position < self._place.at:
            early = data[: self._place.at - self.position]
            self._find(record, early)
            data = data[len(early) :]
            if self.position == self._place.at and (lost := self._take_missing()):
                yield Gap(lost, record.time)
        if data:
            self._streams[record.stream].append(data, self.position, record.time)
            self.position += len(data)
            yield from self._lines(record.stream)

    def skip(self, position: int, time: int) -> Iterator[Line | Gap]:
        """Go on at a later position: unfinished lines end, and what is between is lost.

        Args:
            position: the position.
            time: of the record there, in ns of CLOCK_BOOTTIME.
        """
        if position <= self.position:
            return
        if self.position < self._place.at:
            # What was found of the unfinished lines has no end: it is lost too.
            for stream in self._missing:
                self._missing[stream] += self._streams[stream].size
                self._streams[stream].clear()
            self.position = min(position, self._place.at)
            if self.position < self._place.at:
                return
        else:
            yield from self.finish()
        lost = self._take_missing() + position - self.position
        self.position = position
        if lost:
            yield Gap(lost, time)

    def finish(self) -> Iterator[Line]:
        """End the unfinished lines: the run has ended, or what follows is lost."""
        parts = [(one.part(), stream) for stream, one in self._streams.items()]
        for _, stream in sorted((part, stream) for part, stream in parts if part is not None):
            unfinished = self._streams[stream]
            while size := min(unfinished.size, LINE_MAX):
                yield self._cut(stream, size, size, self.position)
            unfinished.clear()

    def _find(self, record: Record, data: bytes) -> None:
        """Take what belongs to an unfinished line at the place where reading began."""
        part = self._parts[record.stream]
        at = self.position
        self.position += len(data)
        if part is not None and self.position > part.begin:
            begin = max(at, part.begin)
            # A client may send any cursor: no more than an unfinished line is taken.
            found = data[begin - at :][: self._missing[record.stream]]
            if found:
                self._streams[record.stream].append(found, begin, record.time)
                self._missing[record.stream] -= len(found)

    def _take_missing(self) -> int:
        """Return the number of bytes that are missing of the unfinished lines, the first time."""
        lost = sum(self._missing.values())
        self._missing = {}
        return lost

    def _lines(self, stream: int) -> Iterator[Line]:
        unfinished = self._streams[stream]
        while (found := unfinished.next_line()) is not None:
            length, cut, end = found
            yield self._cut(stream, length, cut, unfinished.position(end - 1) + 1, end)

    def _cut(self, stream: int, length: int, cut: int, at: int, end: int | None = None) -> Line:
        """Return a line and remove it from what is unfinished.

        Args:
            stream: its stream.
            length: of its text, in bytes.
            cut: number of bytes to remove.
            at: the position behind it.
            end: index behind the last byte of the stream before that position.
        """
        unfinished = self._streams[stream]
        start = unfinished.start
        time = unfinished.time()
        text = unfinished.data[start : start + length].decode(errors="backslashreplace")
        unfinished.start += cut
        own = unfinished.part(end)
        other = self._streams[STDOUT + STDERR - stream].part()
        parts = (own, other) if stream == STDOUT else (other, own)
        return Line(stream, time, text, cut, Place(at, *parts))
