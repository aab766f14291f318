"""Versions of containers: semantic versioning (https://semver.org/spec/v2.0.0.html).

A version has three numbers only. A pre-release or build part is accepted and dropped, as in
Northstar 0.9.2.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

from northstar.model.errors import InvalidValueError
from northstar.model.text import quote

_U64: Final = 2**64
NUMBER: Final = r"(?:0|[1-9][0-9]{0,19})"
# Numeric identifiers of a pre-release must not have leading zeros; those of a build may.
_PRE: Final = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
SUFFIX: Final = rf"(?:-(?P<pre>{_PRE}(?:\.{_PRE})*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
_VERSION: Final = re.compile(
    rf"(?P<major>{NUMBER})\.(?P<minor>{NUMBER})\.(?P<patch>{NUMBER}){SUFFIX}\Z"
)


class Version(NamedTuple):
    """Three numbers of 64 bits each, ordered by the first that differs."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `1.2.3`; a pre-release or build part is dropped.

        Raises:
            InvalidValueError: the text is not a version.
        """
        match = _VERSION.match(text)
        if match is None:
            raise InvalidValueError(
                f"{quote(text)} is not a version (three numbers without leading zeros)",
                hint="write it as 1.2.3",
            )
        return cls(*(u64(match[part], text) for part in ("major", "minor", "patch")))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def u64(digits: str, text: str) -> int:
    """Return the 64-bit number of `digits`, a part of `text`.

    Raises:
        InvalidValueError: the number does not fit into 64 bits.
    """
    number = int(digits)
    if number >= _U64:
        raise InvalidValueError(f"{quote(text)} has a number that does not fit into 64 bit")
    return number
