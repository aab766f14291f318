"""Loop devices: loop(4), include/uapi/linux/loop.h.

The trap: asking for a free device and binding it are two steps, and in between anybody may take
it. Within this process a lock closes the gap (eight threads without one lost every second try to
each other); against other processes only trying again helps, so EBUSY is not an error here until
the time is up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
import time
from typing import Final, Protocol

from northstar.deadline import Deadline
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

# struct loop_info64: device, inode, rdevice, offset, sizelimit, number, encrypt_type,
# encrypt_key_size, flags, file_name, crypt_name, encrypt_key, init
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
# struct loop_config: fd, block_size, info, reserved
_CONFIG = struct.Struct(f"=2I{_INFO.size}s64x")

# What another process's grip on the same device looks like: it bound it (EBUSY), it removes it
# (ENXIO, ENODEV, ENOENT), or its pages are still being written (EAGAIN).
_CONTENDED = frozenset({errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOENT, errno.EAGAIN})
_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02
# A device that is called free and stays busy this long is held by somebody who does not bind
# it. The kernel will name it again and again, so then a new one is made instead.
_STUCK = 0.05

_lock = threading.Lock()


class Loop(Descriptor):
    """A bound loop device. While it is open, or mounted, it exists; then the kernel frees it.

    Attributes:
        path: of the node, `/dev/loop3`.
        number: of the device, 3. The minor number is another one if loop devices have
            partitions (parameter max_part of the module).
    """

    def __init__(self, path: str, number: int, fd: int) -> None:
        self.path = path
        self.number = number
        super().__init__(fd)

    @property
    def minor(self) -> int:
        """The minor number of the node.

        Raises:
            OSError: EBADF after `close`.
        """
        return os.minor(os.fstat(self._fd).st_rdev)

    def __repr__(self) -> str:
        return f"Loop({self.path!r})"


class Attach(Protocol):
    """`attach`, with its patience settled."""

    def __call__(self, fd: int, *, offset: int = 0, sizelimit: int = 0) -> Loop:
        """Bind a loop device to the file `fd`."""


def attach(
    fd: int,
    *,
    offset: int = 0,
    sizelimit: int = 0,
    timeout: float = 10.0,
    give_up: threading.Event | None = None,
) -> Loop:
    """Bind a loop device to the file `fd`, read only, to be unbound when it is last closed.

    Direct I/O stays off: it measured no better on images in the page cache, and files in memory
    (memfd, tmpfs) have none.

    Args:
        fd: the backing file; the device holds it open by itself.
        offset: bytes, where the image starts in the file.
        sizelimit: bytes, the size of the image; 0 is all to the end. The device ends at the last
            whole sector (512 bytes) of it.
        timeout: seconds to fight others for a device.
        give_up: ends the fight when it is set; what can be had without one is had all the same.

    Raises:
        OSError: of the step that failed, with the path of the node; `TimeoutError` if all
            devices were snatched away until the time was up, ECANCELED if until `give_up`.
    """
    os.fstat(fd)  # EBADF now: the files opened below could get the number of a closed one
    deadline = Deadline(timeout)
    # Waiting for the lock counts: it is held by a thread that fights for a device itself.
    while not _lock.acquire(timeout=deadline.left()):
        if deadline.passed():
            raise _timed_out(timeout)
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            return _attach(control, fd, offset, sizelimit, deadline, timeout, give_up)
        finally:
            os.close(control)
    finally:
        _lock.release()


def _attach(
    control: int,
    fd: int,
    offset: int,
    sizelimit: int,
    deadline: Deadline,
    timeout: float,
    give_up: threading.Event | None,
) -> Loop:
    give_up = give_up or threading.Event()
    pause = _FIRST_PAUSE
    stuck_at: tuple[int, float] | None = None
    while True:
        command = LOOP_CTL_GET_FREE
        if stuck_at and time.monotonic() - stuck_at[1] > _STUCK:
            command, stuck_at = LOOP_CTL_ADD, None
        number = -1
        try:
            number = _ioctl(control, command, -1 if command == LOOP_CTL_ADD else 0, CONTROL)
            return _bind(number, fd, offset, sizelimit)
        except OSError as error:
            if error.errno not in _CONTENDED:
                raise
        if stuck_at is None or stuck_at[0] != number:
            stuck_at = (number, time.monotonic())
        if deadline.passed():
            raise _timed_out(timeout)
        if give_up.wait(min(pause, deadline.left())):
            raise OSError(errno.ECANCELED, "no loop device became free until the end", CONTROL)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _bind(number: int, fd: int, offset: int, sizelimit: int) -> Loop:
    """Bind the device `number`, which may be anybody's by now."""
    path = f"/dev/loop{number}"
    loop = Loop(path, number, _open(path, number))
    info = _INFO.pack(
        *(0, 0, 0, offset, sizelimit, 0, 0, 0),
        LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        *(b"", b"", b"", 0, 0),
    )
    try:
        try:
            _ioctl(loop.fd, LOOP_CONFIGURE, _CONFIG.pack(fd, 0, info), path)
        except OSError as error:
            # Linux before 5.8 does not know it: EINVAL, or ENOTTY from some compat layers.
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise
            _set_fd_and_status(loop.fd, fd, info, path)
    except BaseException:
        loop.close()
        raise
    return loop


def _set_fd_and_status(device: int, fd: int, info: bytes, path: str) -> None:
    """Bind in two steps. The device is read only because it was opened so."""
    _ioctl(device, LOOP_SET_FD, fd, path)
    try:
        _ioctl(device, LOOP_SET_STATUS64, info, path)
    except OSError:
        # Without its status the device has no autoclear: it would stay bound for ever.
        _ioctl(device, LOOP_CLR_FD, 0, path)
        raise


def _open(path: str, number: int) -> int:
    """Open a node and make sure that it is the loop device it is called after."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # A /dev of one's own (no devtmpfs) does not follow the kernel.
        _make_node(path, number)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode) or os.major(status.st_rdev) != LOOP_MAJOR:
        os.close(fd)
        raise OSError(errno.ENOTBLK, "not a loop device", path)
    return fd


def _make_node(path: str, number: int) -> None:
    with open(f"/sys/block/loop{number}/dev", encoding="ascii") as file:
        major, minor = (int(part) for part in file.read().split(":"))
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(major, minor))
    except FileExistsError:
        return


def _ioctl(fd: int, request: int, argument: int | bytes, path: str) -> int:
    try:
        if isinstance(argument, int):
            return fcntl.ioctl(fd, request, argument)
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    return 0


def _timed_out(timeout: float) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"no loop device became free in {timeout:g} s", CONTROL)


def detach_unfinished(directory: str) -> list[str]:
    """Unbind devices on files of a directory that were bound and never set up; return their paths.

    Linux before 5.8 binds in two steps. Who is killed in between leaves a device without autoclear:
    nothing else would ever free it.

    Args:
        directory: an absolute path; files that were removed since count too, if the device shows
            that path: from within a chroot(2) it may show another one.
    """
    files = set()
    # A directory that cannot be read is for somebody else to complain of.
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat()
                files.add((status.st_dev, status.st_ino))
    found = []
    for name in os.listdir("/sys/block"):
        loop = f"/sys/block/{name}/loop"
        try:
            backing, autoclear, offset = (
                _attribute(f"{loop}/{key}") for key in ("backing_file", "autoclear", "offset")
            )
            if autoclear != "0" or offset != "0":
                continue
            fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.path.dirname(backing) == directory or _backing_file(fd) in files:
                    _ioctl(fd, LOOP_CLR_FD, 0, f"/dev/{name}")
                    found.append(f"/dev/{name}")
            finally:
                os.close(fd)
        except OSError:
            continue  # no loop device, or not bound, or just gone
    return found


def _backing_file(fd: int) -> tuple[int, int]:
    """Return device and inode of the file that a loop device stands on."""
    info = bytearray(_INFO.size)
    fcntl.ioctl(fd, LOOP_GET_STATUS64, info)
    device, inode, *_ = _INFO.unpack(info)
    return device, inode


def _attribute(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().rstrip("\n")
