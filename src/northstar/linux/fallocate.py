"""Allocation of a file's blocks before they are written: fallocate(2).

`os.posix_fallocate` is another function: where a file system cannot allocate, the C library writes
a byte to each block instead, and that always changes the size of the file.
"""

from __future__ import annotations

import ctypes
from typing import Final

from northstar.linux._libc import function

FALLOC_FL_KEEP_SIZE: Final = 0x1

# off_t, which is a long on all supported machines
_fallocate = function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate the blocks of a range. Blocks that the file has already stay, with their contents.

    Args:
        fd: of a regular file, open for writing.
        mode: 0, or FALLOC_FL_KEEP_SIZE: the file does not grow, also if the range ends behind it.
        offset: start of the range, in bytes.
        length: of the range, in bytes.

    Raises:
        OSError: EOPNOTSUPP if the file system cannot do it; ENOSPC, EDQUOT, EFBIG, EIO.
    """
    _fallocate(fd, mode, offset, length)
