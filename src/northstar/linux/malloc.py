"""How malloc(3) is to use memory: mallopt(3), where the C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes

from northstar.linux import _libc

_M_ARENA_MAX = -8  # malloc.h


def save_memory() -> None:
    """Have one heap for all threads.

    By default each thread gets a heap of its own, for the sake of threads that allocate at the same
    time; those of Python mostly wait for the interpreter's lock, and each heap has its own waste.
    To be called before there is another thread. Other C libraries know nothing of this, and are
    sparing by themselves. The thresholds stay glibc's own, which adapt: a fixed M_TRIM_THRESHOLD
    spares little, and gives back each buffer of a package that is received before the next one.
    """
    with contextlib.suppress(AttributeError):
        mallopt = _libc.function("mallopt", ctypes.c_int, ctypes.c_int)
        mallopt(_M_ARENA_MAX, 1)
