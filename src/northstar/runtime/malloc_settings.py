"""How malloc(3) uses the memory of the runtime's process.

The runtime decides this, not a lower package: the best number of heaps depends on the runtime's
threads, and the size of a large block on what its event loop reads at once. Other programs that
import northstar (clients, `sextant`) keep the defaults.
"""

from __future__ import annotations

import contextlib
from typing import Final

from northstar.linux import malloc

_LARGE: Final = 512 * 1024
"""Bytes. Twice what the event loop reads at once, so that receiving a package does not cost a page
fault per page."""


def save_memory() -> None:
    """Use one heap for all threads, and return free memory at its top to the kernel.

    By default each thread gets a separate heap, for threads that allocate concurrently. Python's
    threads mostly wait for the interpreter's lock, and each heap wastes memory.

    By default glibc also keeps up to twice the largest block that was ever freed (at most 64 MiB):
    one long line of a client would enlarge the process permanently. With this setting larger
    blocks are separate mappings, which are unmapped when they are freed.

    Call this before other threads exist. Other C libraries have no such settings, and keep little
    free memory.
    """
    with contextlib.suppress(AttributeError):
        malloc.mallopt(malloc.M_ARENA_MAX, 1)
        malloc.mallopt(malloc.M_MMAP_THRESHOLD, _LARGE)
        malloc.mallopt(malloc.M_TRIM_THRESHOLD, _LARGE)
