"""The type of a file system: fstatfs(2). os.fstatvfs(3) does not contain it."""

from __future__ import annotations

import ctypes
from typing import Final

from northstar.linux._libc import function

# include/uapi/linux/magic.h
TMPFS_MAGIC: Final = 0x01021994
RAMFS_MAGIC: Final = 0x858458F6

IN_MEMORY: Final = frozenset((TMPFS_MAGIC, RAMFS_MAGIC))
"""File systems without a device."""

_SIZE: Final = 256
"""More than the bytes of struct statfs, which begins with `f_type`, a long."""

_fstatfs = function("fstatfs", ctypes.c_int, ctypes.c_void_p)


def file_system(descriptor: int) -> int:
    """Return the magic number of the file system of an open file.

    Raises:
        OSError: EBADF; EIO.
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    _fstatfs(descriptor, buffer)
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF
