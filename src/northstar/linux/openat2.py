"""Restricted path lookups: openat2(2), Linux 5.6.

Constants and struct open_how: include/uapi/linux/openat2.h of the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from northstar.linux._libc import function, path_bytes

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# The same on all architectures: calls since Linux 5.2 have one number.
_NR: Final = 437


class _OpenHow(ctypes.Structure):
    """struct open_how."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_syscall = function(
    "syscall",
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.POINTER(_OpenHow),
    ctypes.c_size_t,
    paths=(2,),
)


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open a path by a restricted lookup; close-on-exec. The caller owns the descriptor.

    Args:
        directory: an open directory; with RESOLVE_IN_ROOT the root of the lookup.
        path: the path.
        flags: O_*, without O_CREAT.
        resolve: RESOLVE_*.

    Raises:
        OSError: ENOSYS before Linux 5.6. ELOOP for a link that `resolve` forbids. EAGAIN if the
            lookup of `..` may have met a concurrent rename or mount: it can be repeated.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return _syscall(_NR, directory, path_bytes(path), ctypes.byref(how), ctypes.sizeof(how))


def supported() -> bool:
    """Return whether the kernel has the call."""
    try:
        os.close(openat2(-1, "/", os.O_PATH, RESOLVE_NO_MAGICLINKS))
    except OSError as failure:
        if failure.errno in (errno.ENOSYS, errno.EPERM):  # EPERM: by a filter of system calls
            return False
        raise
    return True
