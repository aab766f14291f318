"""Named network namespaces: the files that ip-netns(8) makes."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from northstar.linux.mount import CLONE_NEWNET

DIRECTORIES: Final = ("/var/run/netns", "/run/netns")
"""Directories of named network namespaces; the first one that contains the name counts. They are
part of the interface that ip-netns(8) documents, not a choice of this project. The second one
serves hosts where /var/run is not a link to /run."""

# include/uapi/linux/nsfs.h
NS_GET_NSTYPE: Final = 0xB703


def open_named(name: str, directories: tuple[str, ...] = DIRECTORIES) -> int:
    """Open the network namespace `name`, a bare file name; close-on-exec. The caller owns it.

    Raises:
        OSError: ENOENT if no directory contains it, EINVAL if the file is no network namespace
            (where the namespace is not mounted, the file is empty).
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
    """Return the CLONE_NEW* constant of an open namespace, None for any other file."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        return None
