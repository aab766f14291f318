"""How malloc(3) uses the memory of the runtime's process.

These are decisions of the runtime and of no lower package: the right number of heaps follows from
the runtime's threads, and the size of a large block from what its event loop reads at once. No
other program that imports northstar (a client, `sextant`) wants them.
"""

from __future__ import annotations

import contextlib
from typing import Final

from northstar.linux import malloc

_LARGE: Final = 512 * 1024
"""Bytes. Twice what the event loop reads at once, so that a package does not cost a page fault for
each page of it."""


def save_memory() -> None:
    """Have one heap for all threads, and give back what is free at its top.

    By default each thread gets a heap of its own, for the sake of threads that allocate at the same
    time; those of Python mostly wait for the interpreter's lock, and each heap has its own waste.

    And by default what glibc keeps grows with the largest block that was ever freed (twice that, up
    to 64 MiB): a client that sends one long line makes the process larger for good. Larger blocks
    are mappings of their own instead, which are unmapped when they are freed.

    To be called before there is another thread. Other C libraries have no such settings, and keep
    little by themselves.
    """
    with contextlib.suppress(AttributeError):
        malloc.mallopt(malloc.M_ARENA_MAX, 1)
        malloc.mallopt(malloc.M_MMAP_THRESHOLD, _LARGE)
        malloc.mallopt(malloc.M_TRIM_THRESHOLD, _LARGE)
