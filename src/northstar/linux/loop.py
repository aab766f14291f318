"""Loop devices: loop(4), include/uapi/linux/loop.h; the files of sysfs-block-loop in /sys/block.

An OSError of the ioctls names the node: `/dev/loop-control`, or `/dev/loop3`.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final, NamedTuple

from northstar.linux.descriptor import Descriptor

LOOP_SET_FD: Final = 0x4C00
LOOP_CLR_FD: Final = 0x4C01
LOOP_SET_STATUS64: Final = 0x4C04
LOOP_GET_STATUS64: Final = 0x4C05
LOOP_CONFIGURE: Final = 0x4C0A
LOOP_CTL_ADD: Final = 0x4C80
LOOP_CTL_REMOVE: Final = 0x4C81
LOOP_CTL_GET_FREE: Final = 0x4C82

LO_FLAGS_READ_ONLY: Final = 0x1
LO_FLAGS_AUTOCLEAR: Final = 0x4
LO_FLAGS_PARTSCAN: Final = 0x8
LO_FLAGS_DIRECT_IO: Final = 0x10

LOOP_MAJOR: Final = 7
CONTROL: Final = "/dev/loop-control"

_SYSFS: Final = "/sys/block"

# struct loop_info64: device, inode, rdevice, offset, sizelimit, number, encrypt_type,
# encrypt_key_size, flags, file_name, crypt_name, encrypt_key, init
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
# struct loop_config: fd, block_size, info, reserved
_CONFIG = struct.Struct(f"=2I{_INFO.size}s64x")


class Status(NamedTuple):
    """The fields of struct loop_info64 of a bound device.

    Attributes:
        device, inode: of the backing file, as `st_dev` and `st_ino`.
        offset, sizelimit: in bytes; a size of 0 means up to the end of the file.
        flags: LO_FLAGS_*.
    """

    device: int
    inode: int
    offset: int
    sizelimit: int
    flags: int


class Attributes(NamedTuple):
    """The files of a bound device in /sys/block/loopN/loop.

    Attributes:
        backing_file: its path as the kernel shows it; ` (deleted)` is appended to a removed one's.
        autoclear: the kernel unbinds the device at its last close.
        offset: in bytes.
    """

    backing_file: str
    autoclear: bool
    offset: int


class Control(Descriptor):
    """The open control node: one method per ioctl."""

    def __init__(self) -> None:
        """Open it, close-on-exec.

        Raises:
            OSError: ENOENT, ENODEV or ENXIO if the kernel lacks loop devices.
        """
        super().__init__(os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC))

    def get_free(self) -> int:
        """Return the number of a device that is not bound now; the kernel adds one if needed."""
        return _ioctl(self._fd, LOOP_CTL_GET_FREE, 0, CONTROL)

    def add(self, number: int = -1) -> int:
        """Add a device; return its number. -1 is the first unused number.

        Raises:
            OSError: EEXIST if a device has this number.
        """
        return _ioctl(self._fd, LOOP_CTL_ADD, number, CONTROL)

    def remove(self, number: int) -> None:
        """Remove a device.

        Raises:
            OSError: EBUSY if it is bound or open, ENODEV if it does not exist.
        """
        _ioctl(self._fd, LOOP_CTL_REMOVE, number, CONTROL)


class Device(Descriptor):
    """The open node of a loop device: one method per ioctl.

    Attributes:
        number: of the device, 3 for `/dev/loop3`. The minor number differs from it if loop
            devices have partitions (parameter max_part of the module).
    """

    def __init__(self, number: int, fd: int) -> None:
        """Own `fd`, the open node, from now on."""
        self.number = number
        super().__init__(fd)

    @property
    def path(self) -> str:
        """The node, `/dev/loop3`."""
        return node(self.number)

    @property
    def minor(self) -> int:
        """The minor number of the node.

        Raises:
            OSError: EBADF after `close`.
        """
        return os.minor(os.fstat(self._fd).st_rdev)

    def configure(self, backing: int, *, offset: int, sizelimit: int, flags: int) -> None:
        """Bind the device to a file and set its parameters: LOOP_CONFIGURE, since Linux 5.8.

        Args:
            backing: the open file. The kernel keeps it open for the device.
            offset: start of the device in the file, in bytes.
            sizelimit: in bytes; 0 means up to the end of the file. The device ends at the last
                whole sector (512 bytes).
            flags: LO_FLAGS_*.

        Raises:
            OSError: EBUSY if it is bound; EINVAL or ENOTTY on a kernel without this ioctl, EINVAL
                also if `backing` is neither a regular file nor a block device.
        """
        info = _info(offset, sizelimit, flags)
        _ioctl(self._fd, LOOP_CONFIGURE, _CONFIG.pack(backing, 0, info), self.path)

    def set_fd(self, backing: int) -> None:
        """Bind the device to a whole file. It is read only if this node was opened read only.

        Raises:
            OSError: EBUSY if it is bound.
        """
        _ioctl(self._fd, LOOP_SET_FD, backing, self.path)

    def set_status(self, *, offset: int, sizelimit: int, flags: int) -> None:
        """Set the parameters of a bound device; the arguments are those of `configure`.

        Raises:
            OSError: EAGAIN while the kernel still writes back pages of the device, ENXIO if it is
                not bound.
        """
        _ioctl(self._fd, LOOP_SET_STATUS64, _info(offset, sizelimit, flags), self.path)

    def get_status(self) -> Status:
        """Return the parameters of the bound device.

        Raises:
            OSError: ENXIO if it is not bound.
        """
        info = bytearray(_INFO.size)
        _ioctl(self._fd, LOOP_GET_STATUS64, info, self.path)
        device, inode, _, offset, sizelimit, _, _, _, flags, *_ = _INFO.unpack(info)
        return Status(device, inode, offset, sizelimit, flags)

    def clear_fd(self) -> None:
        """Unbind the device, at once or at its last close.

        Raises:
            OSError: ENXIO if it is not bound.
        """
        _ioctl(self._fd, LOOP_CLR_FD, 0, self.path)

    def __repr__(self) -> str:
        return f"Device({self.path!r})"


def node(number: int) -> str:
    """Return the path of a device's node."""
    return f"/dev/loop{number}"


def numbers() -> list[int]:
    """Return the numbers of all loop devices, bound or not.

    Raises:
        OSError: sysfs is not mounted.
    """
    names = (name.removeprefix("loop") for name in os.listdir(_SYSFS) if name.startswith("loop"))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def is_bound(number: int) -> bool:
    """Return whether a device is bound; False if it does not exist.

    A tenth of the time of a failing `attributes`: some hosts have hundreds of unbound devices.
    """
    return os.access(f"{_SYSFS}/loop{number}/loop", os.F_OK)


def device_number(number: int) -> int:
    """Return the device number of a device, as `st_rdev` (/sys/block/loopN/dev).

    Raises:
        OSError: ENOENT if the device does not exist.
    """
    major, minor = _read(f"{_SYSFS}/loop{number}/dev").split(":")
    return os.makedev(int(major), int(minor))


def attributes(number: int) -> Attributes:
    """Return the sysfs attributes of a bound device.

    Raises:
        OSError: ENOENT if the device does not exist or is not bound.
    """
    backing, autoclear, offset = (
        _read(f"{_SYSFS}/loop{number}/loop/{name}")
        for name in ("backing_file", "autoclear", "offset")
    )
    return Attributes(backing, autoclear == "1", int(offset))


def _info(offset: int, sizelimit: int, flags: int) -> bytes:
    names = (b"", b"", b"", 0, 0)
    return _INFO.pack(0, 0, 0, offset, sizelimit, 0, 0, 0, flags, *names)


def _ioctl(fd: int, request: int, argument: int | bytes | bytearray, path: str) -> int:
    try:
        if isinstance(argument, int):
            return fcntl.ioctl(fd, request, argument)
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    return 0


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().rstrip("\n")
