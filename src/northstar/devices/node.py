"""Device nodes in /dev. Missing nodes are created.

devtmpfs or udev creates the node of each device. A /dev that is a plain tmpfs, as in many
containers, lacks the nodes of devices that the kernel adds later.
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
    """Open the node of a block device, read only and close-on-exec; create it if it is missing.

    Args:
        path: of the node.
        number: returns the device number for a new node, as `st_rdev`.
        accepts: returns whether the device number of the opened node is the right one.
        refusal: the text of the error if it is not.

    Returns:
        The descriptor, which the caller owns, and whether the node was created.

    Raises:
        OSError: the node cannot be opened or created; ENOTBLK if it is not a block device, or if
            `accepts` refuses its number.
    """
    created = False
    try:
        fd = _open(path)
    except FileNotFoundError:
        created = _create(path, stat.S_IFBLK, number())
        fd = _open(path)
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode) or not accepts(status.st_rdev):
        os.close(fd)
        raise OSError(errno.ENOTBLK, refusal, path)
    return fd, created


def create_character(path: str, number: int) -> None:
    """Create the node of a character device, and its directory, if they are missing.

    Args:
        path: of the node.
        number: the device number, as `st_rdev`.

    Raises:
        OSError: the node or its directory cannot be created.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _create(path, stat.S_IFCHR, number)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _create(path: str, kind: int, number: int) -> bool:
    """Create a node with mode 0600; return False if another program created it meanwhile."""
    with contextlib.suppress(FileExistsError):
        os.mknod(path, kind | 0o600, number)
        return True
    return False
