"""Texts of others in our messages: a value of a megabyte must not become an error of a megabyte."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Final

VALUE_MAX: Final = 64
"""Longest value in characters that a message quotes as a whole."""

MESSAGE_MAX: Final = 16 * 1024
"""Longest message in characters. A line of a container (4096 bytes) fits with each byte escaped,
and so does an error with two paths (PATH_MAX)."""

NAMED_MAX: Final = 5
"""How many of many things a message names; the others are counted."""


def cut(text: str, most: int = MESSAGE_MAX) -> str:
    """Return `text`; of more than `most` characters the middle is left out, and counted.

    The beginning of a message says what failed, its end says why.
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}...({len(text) - most} characters)...{text[-(most // 2) :]}"


def quote(text: str) -> str:
    """Return a value for a message: in quotes, cut, without control characters."""
    return repr(text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 3] + "...")


def listed(names: Collection[object]) -> str:
    """Return the first names, and how many more there are: `a, b, c, d, e, 40 more`."""
    shown = [cut(str(name), 4 * VALUE_MAX) for name in islice(names, NAMED_MAX)]
    more = [f"{len(names) - NAMED_MAX} more"] if len(names) > NAMED_MAX else []
    return ", ".join([*shown, *more])
