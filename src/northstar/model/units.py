"""Durations and sizes with units."""

from __future__ import annotations

import re
from typing import Final

from northstar.model.errors import InvalidValueError
from northstar.model.pattern import Pattern

U64_MAX: Final = 2**64 - 1

_DURATION_UNITS: Final = {
    name: nanoseconds
    for names, nanoseconds in {
        "ns nsec nanos": 1,
        "us usec": 10**3,
        "ms msec millis": 10**6,
        "s sec secs second seconds": 10**9,
        "m min mins minute minutes": 60 * 10**9,
        "h hr hrs hour hours": 3600 * 10**9,
        "d day days": 86400 * 10**9,
        "w week weeks": 7 * 86400 * 10**9,
        # 30.44 and 365.25 days
        "M month months": 2_630_016 * 10**9,
        "y year years": 31_557_600 * 10**9,
    }.items()
    for name in names.split()
}
_DURATION_PART: Final = Pattern(r"([0-9]{1,20}) *([A-Za-z]+) *")


def parse_nanoseconds(text: str) -> int:
    """Return the nanoseconds that `5s`, `1m 30s`, `100ms` or `2days` stands for.

    Raises:
        InvalidValueError: the text is not a duration.
    """
    nanoseconds, position = 0, 0
    stripped = text.strip(" ")
    while match := _DURATION_PART.match(stripped, position):
        number, unit = match.groups()
        if unit not in _DURATION_UNITS:
            break
        nanoseconds += int(number) * _DURATION_UNITS[unit]
        position = match.end()
    if not stripped or position != len(stripped) or nanoseconds / 10**9 > U64_MAX:
        hint = 'write numbers with units, as "5s", "1m 30s" or "100ms"'
        raise InvalidValueError(f"{text!r} is not a duration", hint=hint)
    return nanoseconds


def parse_duration(text: str) -> float:
    """Return the seconds that a duration stands for, see `parse_nanoseconds`.

    Raises:
        InvalidValueError: the text is not a duration.
    """
    return parse_nanoseconds(text) / 10**9


def format_nanoseconds(nanoseconds: int) -> str:
    """Return a duration for `parse_nanoseconds`, not rounded: `90s`, `1500ms`."""
    for unit, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds % factor == 0:
            return f"{nanoseconds // factor}{unit}"
    return f"{nanoseconds}ns"


def format_duration(seconds: float) -> str:
    """Return a duration for `parse_duration`, rounded to nanoseconds: `90s`, `100ms`."""
    return format_nanoseconds(round(seconds * 1e9))


_SIZE: Final = Pattern(
    r"(?=[0-9.]*[0-9])([0-9]{0,40})\.?([0-9]{0,40})(?: *(?:([kmgtpe])(i?)b?|b))?\Z",
    re.IGNORECASE | re.ASCII,
)


def parse_size(text: str) -> int:
    """Return the bytes that `512`, `100MB`, `1M` (10^6) or `1.5 MiB` (2^20) stands for.

    The result is rounded down to whole bytes.

    Raises:
        InvalidValueError: the text is not a size.
    """
    match = _SIZE.match(text)
    if match is None:
        hint = 'write it as "512", "100MB" or "1MiB"'
        raise InvalidValueError(f"{text!r} is not a size", hint=hint)
    whole, fraction, unit, binary = match.groups()
    power = "kmgtpe".index(unit.lower()) + 1 if unit else 0
    # Integers only: as a float 1.1K would be 1100.0000000000002 bytes.
    size: int = int(whole + fraction) * (1024 if binary else 1000) ** power // 10 ** len(fraction)
    if size > U64_MAX:
        raise InvalidValueError(f"{text!r} does not fit into 64 bit")
    return size


def describe_size(size: int) -> str:
    """Return a size for a person, rounded: `512 bytes`, `12.4 MB` (powers of 1000)."""
    if size < 1000:
        return f"{size} bytes"
    power = min((len(str(size)) - 1) // 3, 6)
    number = f"{size / 1000**power:.1f}"
    if number == "1000.0" and power < 6:
        power, number = power + 1, "1.0"
    return f"{number} {' kMGTPE'[power]}B"


def format_size(size: int) -> str:
    """Return a size for `parse_size`, not rounded: `512`, `256MiB`."""
    power = 0
    while size and size % 1024 == 0 and power < 6:
        size //= 1024
        power += 1
    return f"{size}{' KMGTPE'[power]}iB" if power else str(size)
