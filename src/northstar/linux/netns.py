"""Named network namespaces: the files that ip-netns(8) keeps."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from northstar.linux.mount import CLONE_NEWNET

DIRECTORIES: Final = ("/var/run/netns", "/run/netns")
"""Where named network namespaces are; the first that has the name counts."""

# include/uapi/linux/nsfs.h
NS_GET_NSTYPE: Final = 0xB703


def open_named(name: str, directories: tuple[str, ...] = DIRECTORIES) -> int:
    """Open the network namespace `name`, a bare file name; close-on-exec. The caller owns it.

    Raises:
        OSError: ENOENT if no directory has it, EINVAL if what is there is no network namespace
            (a name whose namespace was not mounted is an empty file).
    """
    for directory in directories:
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if _type(fd) != CLONE_NEWNET:
            os.close(fd)
            raise OSError(errno.EINVAL, "not a network namespace", path)
        return fd
    raise FileNotFoundError(
        errno.ENOENT, "no such network namespace", os.path.join(directories[-1], name)
    )


def _type(fd: int) -> int | None:
    """Return the CLONE_NEW* constant of a namespace's file, None for any other file."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        return None
