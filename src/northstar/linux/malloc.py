"""How malloc(3) is to use memory: mallopt(3), where the C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes

from northstar.linux import _libc

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_ARENA_MAX = -8

KEPT = 128 * 1024
"""Bytes at the end of the heap that are kept for the next need. It is glibc's own value, but set
once it stays: else the first large buffer that is freed raises it, and with it the size up to which
buffers come from the heap, where what stays behind them keeps their memory from the kernel.
"""


def save_memory() -> None:
    """Have one heap for all threads, and give back what is free at its end.

    By default each thread gets a heap of its own, for the sake of threads that allocate at the same
    time; those of Python mostly wait for the interpreter's lock, and each heap has its own waste.
    To be called before there is another thread. Other C libraries know nothing of this, and are
    sparing by themselves.
    """
    with contextlib.suppress(AttributeError):
        mallopt = _libc.function("mallopt", ctypes.c_int, ctypes.c_int)
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
