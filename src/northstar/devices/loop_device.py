"""Acquires loop devices in competition with other threads and processes, and frees unfinished ones.

The trap: the kernel names a free device in one step and binds it in another. In between, another
program can bind it. Within this process a lock prevents that (without it, eight threads lost every
second attempt to each other). Against other processes only another attempt helps, so EBUSY is an
error only after the timeout.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from typing import Final, Protocol

from northstar.devices import node
from northstar.linux import loop
from northstar.model.deadline import Deadline

TIMEOUT: Final = 10.0
"""Default of the seconds to compete for a device."""

_FLAGS: Final = loop.LO_FLAGS_READ_ONLY | loop.LO_FLAGS_AUTOCLEAR
"""Direct I/O stays off: measurements showed no gain for images in the page cache, and files in
memory (memfd, tmpfs) do not support it."""

# Errors if another process uses the same device: it has bound it (EBUSY), it removes it (ENXIO,
# ENODEV, ENOENT), or the kernel still writes back its pages (EAGAIN).
_CONTENDED: Final = frozenset({errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOENT, errno.EAGAIN})
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02
# Seconds that a device may stay busy although the kernel names it as free: another program has it
# open without binding it. The kernel would name the same one again, so then a new one is added.
_STUCK_AFTER: Final = 0.05

_lock = threading.Lock()


class Attach(Protocol):
    """`attach` with a fixed timeout."""

    def __call__(self, fd: int, *, offset: int = 0, sizelimit: int = 0) -> loop.Device:
        """Bind a loop device to the file `fd`."""


def attach(
    fd: int,
    *,
    offset: int = 0,
    sizelimit: int = 0,
    timeout: float = TIMEOUT,
    give_up: threading.Event | None = None,
) -> loop.Device:
    """Bind a loop device to the file `fd`, read only. The kernel unbinds it at its last close.

    While the device is open, or mounted, it stays bound.

    Args:
        fd: the backing file. The kernel keeps it open for the device.
        offset: start of the image in the file, in bytes.
        sizelimit: size of the image in bytes; 0 means up to the end of the file. The device ends
            at the last whole sector (512 bytes).
        timeout: seconds to compete with other programs for a device.
        give_up: ends the competition when it is set. If a device is free at once, it is returned
            even then.

    Raises:
        OSError: of the step that failed, with the path of the node; `TimeoutError` if other
            programs took all devices until the timeout, ECANCELED if until `give_up` was set.
    """
    os.fstat(fd)  # EBADF now: a file that is opened below could get the number of a closed one
    deadline = Deadline(timeout)
    # Waiting for the lock counts as well: the thread that holds it competes for a device.
    while not _lock.acquire(timeout=deadline.left()):
        if deadline.passed():
            raise _timed_out(timeout)
    try:
        with loop.Control() as control:
            return _attach(control, fd, offset, sizelimit, deadline, timeout, give_up)
    finally:
        _lock.release()


def _attach(
    control: loop.Control,
    fd: int,
    offset: int,
    sizelimit: int,
    deadline: Deadline,
    timeout: float,
    give_up: threading.Event | None,
) -> loop.Device:
    give_up = give_up or threading.Event()
    pause = _FIRST_PAUSE
    stuck_at: tuple[int, float] | None = None
    while True:
        choose = control.get_free
        if stuck_at and time.monotonic() - stuck_at[1] > _STUCK_AFTER:
            choose, stuck_at = control.add, None
        number = -1
        try:
            number = choose()
            return _bind(number, fd, offset, sizelimit)
        except OSError as error:
            if error.errno not in _CONTENDED:
                raise
        if stuck_at is None or stuck_at[0] != number:
            stuck_at = (number, time.monotonic())
        if deadline.passed():
            raise _timed_out(timeout)
        if give_up.wait(min(pause, deadline.left())):
            raise OSError(errno.ECANCELED, "no loop device: the wait was cancelled", loop.CONTROL)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _bind(number: int, fd: int, offset: int, sizelimit: int) -> loop.Device:
    """Bind the device `number`. Another process may have bound it meanwhile."""
    device = _open(number)
    try:
        try:
            device.configure(fd, offset=offset, sizelimit=sizelimit, flags=_FLAGS)
        except OSError as error:
            # Linux before 5.8 lacks this ioctl: EINVAL, or ENOTTY from some compat layers.
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise
            _bind_in_two_steps(device, fd, offset, sizelimit)
    except BaseException:
        device.close()
        raise
    return device


def _bind_in_two_steps(device: loop.Device, fd: int, offset: int, sizelimit: int) -> None:
    """Bind as before Linux 5.8. The device is read only since its node was opened read only."""
    device.set_fd(fd)
    try:
        device.set_status(offset=offset, sizelimit=sizelimit, flags=_FLAGS)
    except OSError:
        # Without its status the device has no autoclear: it would never be unbound.
        device.clear_fd()
        raise


def _open(number: int) -> loop.Device:
    """Open a node and check that it is that of a loop device."""
    fd, _ = node.open_block(
        loop.node(number),
        lambda: loop.device_number(number),
        accepts=lambda device: os.major(device) == loop.LOOP_MAJOR,
        refusal="not a loop device",
    )
    return loop.Device(number, fd)


def _timed_out(timeout: float) -> TimeoutError:
    message = f"no loop device became free in {timeout:g} s"
    return TimeoutError(errno.ETIMEDOUT, message, loop.CONTROL)


def detach_unfinished(directory: str) -> list[str]:
    """Unbind devices that were bound to files of a directory but not set up; return their paths.

    Linux before 5.8 binds in two steps. A process that is killed in between leaves a device
    without autoclear, which the kernel never frees.

    Args:
        directory: an absolute path. Files that were removed meanwhile count if the device shows
            this path for them; in a chroot(2) it may show another one.
    """
    files = set()
    # The code that uses the directory reports if it cannot be read.
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat()
                files.add((status.st_dev, status.st_ino))
    found = []
    for number in filter(loop.is_bound, loop.numbers()):
        try:
            attributes = loop.attributes(number)
            if attributes.autoclear or attributes.offset:
                continue
            # Not with _open, which would create a missing node.
            flags = os.O_RDONLY | os.O_CLOEXEC
            with loop.Device(number, os.open(loop.node(number), flags)) as device:
                bound = device.get_status()
                in_directory = os.path.dirname(attributes.backing_file) == directory
                if in_directory or (bound.device, bound.inode) in files:
                    device.clear_fd()
                    found.append(device.path)
        except OSError:
            continue  # not bound, or removed meanwhile
    return found
