"""Device nodes in /dev, which are made where nobody else makes them.

devtmpfs, or udev, makes the node of each device. A /dev that is a plain tmpfs, as in many
containers, has only those that were put there: what the kernel makes later is missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable


def open_block(
    path: str, number: Callable[[], int], *, accepts: Callable[[int], bool], refusal: str
) -> tuple[int, bool]:
    """Open the node of a block device, read only and close-on-exec; make it if it is missing.

    Args:
        path: of the node.
        number: returns the device number for a node that must be made, as `st_rdev`.
        accepts: tells whether the device number that was opened is the right one.
        refusal: the text of the error if it is not.

    Returns:
        The descriptor, which the caller owns, and whether the node was made.

    Raises:
        OSError: the node cannot be opened or made; ENOTBLK if it is none of a block device, or
            `accepts` refuses its number.
    """
    made = False
    try:
        fd = _open(path)
    except FileNotFoundError:
        made = _make(path, stat.S_IFBLK, number())
        fd = _open(path)
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode) or not accepts(status.st_rdev):
        os.close(fd)
        raise OSError(errno.ENOTBLK, refusal, path)
    return fd, made


def make_character(path: str, number: int) -> None:
    """Make the node of a character device, and its directory, if they are missing.

    Args:
        path: of the node.
        number: the device number, as `st_rdev`.

    Raises:
        OSError: it cannot be made.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _make(path, stat.S_IFCHR, number)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _make(path: str, kind: int, number: int) -> bool:
    """Make a node for root only; return False if somebody else made it meanwhile."""
    with contextlib.suppress(FileExistsError):
        os.mknod(path, kind | 0o600, number)
        return True
    return False
