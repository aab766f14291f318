"""Names of containers."""

from __future__ import annotations

import re
from typing import Final, Self

from northstar.model.errors import InvalidValueError
from northstar.model.text import quote

NAME_MAX: Final = 1024
"""Longest name, in bytes (all characters are ASCII)."""

_VALID: Final = re.compile(r"[0-9A-Za-z._-]{1,1024}\Z")


class Name(str):
    """A container's name: 1 to 1024 characters of `0-9A-Za-z._-`, neither `.` nor `..`.

    It is used as a path component (mount point, data directory, cgroup): hence the last rule.

    Raises:
        InvalidValueError: the text is not a name.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check `text`; return a `Name` unchanged."""
        if isinstance(text, cls):
            return text
        if not _VALID.match(text) or text in (".", ".."):
            raise InvalidValueError(_reason(text), hint="write a name such as hello-1")
        return super().__new__(cls, text)


def _reason(text: str) -> str:
    if not text:
        return "a name must not be empty"
    if len(text) > NAME_MAX:
        return f"a name of {len(text)} characters is too long (at most {NAME_MAX})"
    return f"{quote(text)} is not a name (characters 0-9 A-Z a-z . _ - only, not '.' or '..')"
