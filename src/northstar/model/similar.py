"""Finds the name that somebody most likely meant. Only errors import this module: it is slow."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_ALIKE: Final = 0.75
"""Least similarity of a proposal. With difflib's 0.6, `CAP_FOO` would be CAP_BPF."""

_COMPARED_MAX: Final = 32
"""Characters of a name that are compared: the time of difflib grows with the square of them."""


def similar(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar to `name`, if any; the case does not matter."""
    known = {known.lower(): known for known in names}
    lowered = name[:_COMPARED_MAX].lower()
    if lowered in known:
        return known[lowered]
    found = difflib.get_close_matches(lowered, known, n=1, cutoff=_ALIKE)
    return known[found[0]] if found else None
