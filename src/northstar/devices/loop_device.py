"""Acquires loop devices in competition with other threads and processes, and frees unfinished ones.

The trap: asking for a free device and binding it are two steps, and in between anybody may take
it. Within this process a lock closes the gap (eight threads without one lost every second try to
each other); against other processes only trying again helps, so EBUSY is not an error here until
the time is up.
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
"""Seconds to compete for a device, unless the caller says otherwise."""

_FLAGS: Final = loop.LO_FLAGS_READ_ONLY | loop.LO_FLAGS_AUTOCLEAR
"""Direct I/O stays off: it measured no better on images in the page cache, and files in memory
(memfd, tmpfs) have none."""

# What it looks like when another process uses the same device: it bound it (EBUSY), it removes it
# (ENXIO, ENODEV, ENOENT), or its pages are still being written (EAGAIN).
_CONTENDED: Final = frozenset({errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOENT, errno.EAGAIN})
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02
# A device that is called free and stays busy this long is held by somebody who does not bind
# it. The kernel will name it again and again, so then a new one is made instead.
_STUCK: Final = 0.05

_lock = threading.Lock()


class Attach(Protocol):
    """`attach`, with its timeout settled."""

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
    """Bind a loop device to the file `fd`, read only, to be unbound when it is last closed.

    While the device is open, or mounted, it stays bound.

    Args:
        fd: the backing file; the device holds it open by itself.
        offset: bytes, where the image starts in the file.
        sizelimit: bytes, the size of the image; 0 is all to the end. The device ends at the last
            whole sector (512 bytes) of it.
        timeout: seconds to compete with others for a device.
        give_up: ends the competition when it is set; a device that can be had at once is
            returned all the same.

    Raises:
        OSError: of the step that failed, with the path of the node; `TimeoutError` if others took
            all devices until the time was up, ECANCELED if they did until `give_up` was set.
    """
    os.fstat(fd)  # EBADF now: the files opened below could get the number of a closed one
    deadline = Deadline(timeout)
    # Waiting for the lock counts: it is held by a thread that competes for a device itself.
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
        if stuck_at and time.monotonic() - stuck_at[1] > _STUCK:
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
            raise OSError(errno.ECANCELED, "no loop device became free until the end", loop.CONTROL)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _bind(number: int, fd: int, offset: int, sizelimit: int) -> loop.Device:
    """Bind the device `number`, which another process may have bound by now."""
    device = _open(number)
    try:
        try:
            device.configure(fd, offset=offset, sizelimit=sizelimit, flags=_FLAGS)
        except OSError as error:
            # Linux before 5.8 does not know it: EINVAL, or ENOTTY from some compat layers.
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise
            _bind_in_two_steps(device, fd, offset, sizelimit)
    except BaseException:
        device.close()
        raise
    return device


def _bind_in_two_steps(device: loop.Device, fd: int, offset: int, sizelimit: int) -> None:
    """Bind as before Linux 5.8. The device is read only because it was opened so."""
    device.set_fd(fd)
    try:
        device.set_status(offset=offset, sizelimit=sizelimit, flags=_FLAGS)
    except OSError:
        # Without its status the device has no autoclear: it would stay bound for ever.
        device.clear_fd()
        raise


def _open(number: int) -> loop.Device:
    """Open a node and make sure that it is the one of a loop device."""
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
    """Unbind devices on files of a directory that were bound and never set up; return their paths.

    Linux before 5.8 binds in two steps. A process that is killed in between leaves a device
    without autoclear: nothing else would ever free it.

    Args:
        directory: an absolute path; files that were removed since count too, if the device shows
            that path: from within a chroot(2) it may show another one.
    """
    files = set()
    # A directory that cannot be read is reported by the code that uses it.
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat()
                files.add((status.st_dev, status.st_ino))
    found = []
    for number in loop.numbers():
        try:
            attributes = loop.attributes(number)
            if attributes.autoclear or attributes.offset:
                continue
            # By its node and not by _open: a missing one is not made to look at a device.
            flags = os.O_RDONLY | os.O_CLOEXEC
            with loop.Device(number, os.open(loop.node(number), flags)) as device:
                bound = device.get_status()
                in_directory = os.path.dirname(attributes.backing_file) == directory
                if in_directory or (bound.device, bound.inode) in files:
                    device.clear_fd()
                    found.append(device.path)
        except OSError:
            continue  # not bound, or just removed
    return found
