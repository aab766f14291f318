"""Brings `lo` up in the network namespace that `unshare` made, then becomes the given program."""

import fcntl
import os
import socket
import struct
import sys

# linux/sockios.h and linux/if.h; struct ifreq is a name of 16 bytes and a union of 24.
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def loopback_up() -> None:
    """Set `lo` up in the network namespace of this process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


if __name__ == "__main__":
    loopback_up()
    os.execv(sys.argv[1], sys.argv[1:])
