"""Files in memory: memfd_create(2), and the seals of fcntl(2)."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

# include/uapi/linux/fcntl.h and memfd.h
F_SEAL_SEAL: Final = 0x1
F_SEAL_SHRINK: Final = 0x2
F_SEAL_GROW: Final = 0x4
F_SEAL_WRITE: Final = 0x8
F_SEAL_FUTURE_WRITE: Final = 0x10
F_SEAL_EXEC: Final = 0x20
MFD_CLOEXEC: Final = 0x1
MFD_ALLOW_SEALING: Final = 0x2
MFD_NOEXEC_SEAL: Final = 0x8
MFD_EXEC: Final = 0x10

_F_ADD_SEALS: Final = 1033
_F_GET_SEALS: Final = 1034


def create(name: str, *, mode: int = 0o600, executable: bool = False) -> int:
    """memfd_create(2): an empty file that can be sealed; close-on-exec. The caller owns it.

    Args:
        name: shown in /proc/PID/fd; at most 249 bytes.
        mode: of the file. Since Linux 6.3 a file that is not executable is sealed so
            (MFD_NOEXEC_SEAL): no later chmod makes it a program.
        executable: execve(2) will run its content.

    Raises:
        OSError: EINVAL for a name that is too long, EMFILE.
    """
    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    kind = MFD_EXEC if executable else MFD_NOEXEC_SEAL
    try:
        fd = os.memfd_create(name, flags | kind)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, f"memfd:{name}") from None
        # Linux before 6.3 refuses both flags with EINVAL, and no other call shows whether the
        # kernel has them. So the second call is part of the interface, not a retry policy.
        fd = os.memfd_create(name, flags)
    try:
        os.fchmod(fd, mode | 0o100 if executable else mode & ~0o111)
    except BaseException:
        os.close(fd)
        raise
    return fd


def seal(fd: int, seals: int = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) -> None:
    """Add seals, which cannot be removed. With the default ones the content is immutable.

    Raises:
        OSError: EBUSY while a writable shared mapping exists, EPERM if F_SEAL_SEAL is set.
    """
    fcntl.fcntl(fd, _F_ADD_SEALS, seals)


def sealed(name: str, content: bytes, *, mode: int = 0o600, executable: bool = False) -> int:
    """Return an immutable file with this content, otherwise as `create`. The caller owns it.

    Raises:
        OSError: as `create`.
    """
    fd = create(name, mode=mode, executable=executable)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def seals(fd: int) -> int:
    """Return the seals of a file. OSError EINVAL: this kind of file does not support seals."""
    return fcntl.fcntl(fd, _F_GET_SEALS)


def reopen_read_only(fd: int) -> int:
    """Open the same file again, read only, with a separate offset. The caller owns it."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
