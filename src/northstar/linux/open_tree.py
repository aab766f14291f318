"""Copies of mounts that are attached to no directory yet: open_tree(2), Linux 5.2.

Constants: include/uapi/linux/mount.h of the kernel. move_mount(2), which attaches them, is of the
same version.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

from northstar.linux._libc import function, path_bytes

OPEN_TREE_CLONE: Final = 0x1

_AT_FDCWD: Final = -100

# The same on all architectures: calls since Linux 5.2 have one number.
_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429

_syscall = function(
    "syscall", ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_ulong, paths=(2,)
)
_move_mount = function(
    "syscall",
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_ulong,
)


def clone(path: str) -> int:
    """Copy the mount at `path`, without those below it; close-on-exec. The caller owns it.

    The copy ends with the last descriptor of it, unless it was attached.

    Raises:
        OSError: ENOSYS before Linux 5.2, EPERM without CAP_SYS_ADMIN, EINVAL if the mount is in
            another mount namespace.
    """
    return _syscall(_NR_OPEN_TREE, _AT_FDCWD, path_bytes(path), OPEN_TREE_CLONE | os.O_CLOEXEC)


def supported() -> bool:
    """Return whether the kernel has both calls."""
    return _has(lambda: _syscall(_NR_OPEN_TREE, -1, b"", OPEN_TREE_CLONE)) and _has(
        lambda: _move_mount(_NR_MOVE_MOUNT, -1, b"", -1, b"", 0)
    )


def _has(call: Callable[[], int]) -> bool:
    """Return whether a call, which fails for its arguments, exists."""
    try:
        call()
    except OSError as failure:
        # EPERM: by a filter of system calls.
        return failure.errno not in (errno.ENOSYS, errno.EPERM)
    raise AssertionError("a call without a valid argument has succeeded")
