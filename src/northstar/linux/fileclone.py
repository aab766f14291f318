"""Clones of files, which share their blocks: FICLONE of ioctl_ficlone(2)."""

from __future__ import annotations

import fcntl
from typing import Final

FICLONE: Final = 0x40049409
"""include/uapi/linux/fs.h: _IOW(0x94, 9, int)"""


def ficlone(target: int, source: int) -> None:
    """Make the contents of an open file those of another one, by sharing its blocks.

    The kernel writes dirty pages of the source before; a later change of one file does not change
    the other.

    Args:
        target: open for writing.
        source: open for reading, on the same file system.

    Raises:
        OSError: EOPNOTSUPP or ENOTTY if the file system cannot do it; EINVAL if it cannot do it for
            these two files (btrfs: only one of them has no checksums); EXDEV, ENOSPC, EIO.
    """
    fcntl.ioctl(target, FICLONE, source)
