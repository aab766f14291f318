"""The next step in errors about values: what the author of a document most likely meant to write.

Only errors import this module: reading a valid document must not pay for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from northstar.model import InvalidValueError
from northstar.model.similar import similar
from northstar.model.units import parse_nanoseconds, parse_size

NAMES_MAX: Final = 12
"""Most names that a message lists."""

_OCTAL: Final = re.compile(r"\s*0?[oO]?([0-7]{3,4})\s*\Z", re.ASCII)

_NANOSECONDS: Final = {"microseconds": 10**3, "milliseconds": 10**6, "seconds": 10**9}
"""Units of fields that are plain numbers, in nanoseconds."""


def integer(text: str, unit: str, least: int, most: int) -> str | None:
    """Return what to write instead of a text that is not an integer; None if that is not known.

    Args:
        text: what the document contains.
        unit: unit of the field.
        least: lowest number that the field accepts.
        most: highest number that the field accepts.
    """
    number: int | None = None
    if unit == "file mode":
        match = _OCTAL.match(text)
        if match and least <= int(match[1], 8) <= most:
            return f"write 0o{match[1].lstrip('0') or '0'}"
        return "write it in octal and without quotes, as 0o660"
    try:
        if unit.startswith("bytes"):
            number = parse_size(text.strip())
        elif unit in _NANOSECONDS:
            number = parse_nanoseconds(text) // _NANOSECONDS[unit]
    except InvalidValueError:
        pass
    if number is not None and least <= number <= most:
        return f"it is in {unit.partition(',')[0]}: write {number}"
    return None


def choice(name: str, names: Iterable[str], hint: str | None = None) -> str | None:
    """Return the next step for a name that is none of `names`, which the message lists if few.

    Args:
        name: what the document contains.
        names: the names that are accepted.
        hint: the next step if no name is similar.
    """
    names = list(names)
    meant = similar(name, names)
    if meant is not None:
        return f"did you mean {meant}?"
    return hint or (None if len(names) > NAMES_MAX else "write one of them")
