"""Parameters of the C library's malloc: mallopt(3), malloc.h of glibc.

This is no kernel interface. It is in this package because no other one calls the C library.
"""

from __future__ import annotations

import ctypes
from typing import Final

from northstar.linux._libc import function

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8


def mallopt(parameter: int, value: int) -> bool:
    """Set a parameter; return whether the C library accepts it.

    Args:
        parameter: M_*.
        value: a number, or bytes.

    Raises:
        AttributeError: the C library lacks this function (musl).
    """
    return bool(function("mallopt", ctypes.c_int, ctypes.c_int)(parameter, value))
