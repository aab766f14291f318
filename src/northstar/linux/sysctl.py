"""Settings of the kernel: /proc/sys, proc_sys_net(5)."""

from __future__ import annotations

from typing import Final

_MAX_DGRAM_QLEN: Final = "/proc/sys/net/unix/max_dgram_qlen"
_MAX_DGRAM_QLEN_DEFAULT: Final = 10
"""net/unix/af_unix.c, for a kernel without this file."""


def max_dgram_qlen() -> int:
    """Return net.unix.max_dgram_qlen of the calling process's network namespace.

    A Unix datagram socket that is created now accepts datagrams until it has queued more than this
    (unix_recvq_full in af_unix.c). It keeps the value that it is created with.
    """
    try:
        with open(_MAX_DGRAM_QLEN, encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return _MAX_DGRAM_QLEN_DEFAULT
