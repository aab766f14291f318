"""Writing a whole file system to its disk: syncfs(2)."""

from __future__ import annotations

import ctypes
import os
import re
from typing import Final

from northstar.linux._libc import function

_syncfs = function("syncfs", ctypes.c_int)

_REPORTS_SINCE: Final = (5, 8)


def syncfs(fd: int) -> None:
    """Write all that is cached of the file system of an open file.

    Raises:
        OSError: EIO, ENOSPC, EDQUOT: a write failed since the file was opened. Linux before 5.8
            does not report a failure to write the contents of a file (`reports_errors`).
    """
    _syncfs(fd)


def reports_errors(release: str | None = None) -> bool:
    """Return whether `syncfs` reports failures to write the contents of files.

    Only the version of the kernel shows it: the call has no flag for it.

    Args:
        release: as in uname(2), that of the running kernel by default.
    """
    match = re.match(r"(\d+)\.(\d+)", os.uname().release if release is None else release)
    return match is not None and (int(match[1]), int(match[2])) >= _REPORTS_SINCE
