"""How malloc(3) is to use memory: mallopt(3), where the C library is glibc."""

from __future__ import annotations

import contextlib
import ctypes

from northstar.linux import _libc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h

_LARGE = 512 * 1024
"""Bytes. Twice what the event loop reads at once, so that a package does not cost a page fault for
each page of it."""


def save_memory() -> None:
    """Have one heap for all threads, and give back what is free at its top.

    By default each thread gets a heap of its own, for the sake of threads that allocate at the same
    time; those of Python mostly wait for the interpreter's lock, and each heap has its own waste.

    And by default what glibc keeps grows with the largest block that was ever freed (twice that, up
    to 64 MiB): a client that sends one long line makes us larger for good. Larger blocks are
    mappings of their own instead, which go when they are freed.

    To be called before there is another thread. Other C libraries know nothing of this, and are
    sparing by themselves.
    """
    with contextlib.suppress(AttributeError):
        mallopt = _libc.function("mallopt", ctypes.c_int, ctypes.c_int)
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)
