"""Brings `lo` up in the network namespace that `unshare` made, then executes the given program.

With `--older` before it, the program runs as on a kernel without each feature that has a fallback.
"""

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

# linux/sockios.h and linux/if.h; struct ifreq is a name of 16 bytes and a union of 24.
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def loopback_up() -> None:
    """Set `lo` up in the network namespace of this process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def older_kernel() -> None:
    """Let this process see an older kernel."""
    sys.path.insert(0, str(Path(__file__).parents[2]))  # this process runs with -I
    from tests.system import filters

    filters.install(filters.older_kernel())


if __name__ == "__main__":
    loopback_up()
    program = sys.argv[1:]
    if program[0] == "--older":
        older_kernel()
        del program[0]
    os.execv(program[0], program)
