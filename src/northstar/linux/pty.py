"""Pseudoterminals: ioctl_tty(2), Documentation/filesystems/devpts.rst."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Final

TIOCSPTLCK: Final = 0x40045431
TIOCGPTPEER: Final = 0x5441
"""include/uapi/asm-generic/ioctls.h: the same on all architectures that northstar supports."""


def open_master(ptmx: str) -> int:
    """Open the multiplexer of a devpts: a new master, unlocked; close-on-exec. The caller owns it.

    Raises:
        OSError: ENOSPC if the kernel's limit of terminals is reached.
    """
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    except BaseException:
        os.close(master)
        raise
    return master


def open_slave(master: int) -> int:
    """TIOCGPTPEER: open the slave of a master, without a path (Linux 4.13). The caller owns it.

    Raises:
        OSError: EIO, EMFILE.
    """
    return fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ: set the size; the foreground process group gets SIGWINCH if it changes.

    Args:
        terminal: master or slave.
        rows: 0..65535.
        columns: 0..65535.

    Raises:
        OSError: it is no terminal.
        struct.error: a number is out of range.
    """
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
