"""Creates device-mapper devices that the kernel removes at their last close."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Final

from northstar.devices import node
from northstar.linux import devicemapper, procfs
from northstar.linux.descriptor import Descriptor
from northstar.linux.devicemapper import Control, Target
from northstar.model.deadline import Deadline

_DRIVER: Final = "device-mapper"
"""Name of device-mapper in /proc/misc."""

_MEMORY_TIMEOUT: Final = 1.0
_MEMORY_PAUSE: Final = 0.002
"""Seconds to repeat the loading of a table on ENOMEM, and seconds between two attempts."""


class MappedDevice(Descriptor):
    """A device that exists while it is open or mounted. Then the kernel removes it.

    Attributes:
        name: of the device in the ioctls.
        path: of its node, `/dev/dm-3`.
    """

    def __init__(self, control: Control, name: str, path: str, fd: int, created: bool) -> None:
        """Own the control node and `fd`, the open node, from now on.

        Args:
            control: the control node.
            name: of the device.
            path: of its node.
            fd: the open node.
            created: this process created the node, so `close` removes it.
        """
        self.name = name
        self.path = path
        self._control = control
        self._created = created
        super().__init__(fd)

    def status(self) -> str:
        """Return the status of the device's only target; of `verity`: `V` or `C` (corrupted).

        Raises:
            OSError: ENXIO if the device was removed.
        """
        return self._control.status(self.name)[0].text

    def close(self) -> None:
        """Close the device. The kernel removes it, unless it is mounted."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close_node(self.path, fd, self._created)
        self._control.close()

    def __repr__(self) -> str:
        return f"MappedDevice({self.name!r}, {self.path!r})"


def attach(name: str, target: Target) -> MappedDevice:
    """Create a read-only device with one target. The kernel removes it at its last close.

    Args:
        name: at most 127 bytes, unique on this machine: no namespace separates these names.
        target: starts at sector 0.

    Raises:
        OSError: of the step that failed, with the device's name, its node or the control node;
            EOPNOTSUPP if the kernel lacks this kind of target. No device is left behind.
    """
    with contextlib.ExitStack() as undo:
        control = undo.enter_context(open_control())
        number = control.create(name)
        undo.callback(_remove, control, name)
        _load(control, name, target)
        control.resume(name)
        path = devicemapper.node(number)
        fd, created = node.open_block(
            path,
            lambda: number,
            accepts=lambda device: device == number,
            refusal="not the device-mapper device of that number",
        )
        undo.callback(_close_node, path, fd, created)
        control.remove(name, deferred=True)
        undo.pop_all()
    return MappedDevice(control, name, path, fd, created)


def open_control() -> Control:
    """Open device-mapper's control node; create it if only the node is missing.

    Raises:
        OSError: ENOENT, ENODEV or ENXIO if the kernel lacks device-mapper.
    """
    try:
        return Control()
    except FileNotFoundError:
        minor = procfs.misc().get(_DRIVER)
        if minor is None:
            raise
    node.create_character(devicemapper.CONTROL, os.makedev(procfs.MISC_MAJOR, minor))
    return Control()


def remove_all(prefix: str) -> tuple[list[str], list[OSError]]:
    """Remove all devices whose names begin with `prefix`; those in use at their last close.

    Returns:
        The names of the devices that are or will be removed, and the failures of the others.
    """
    removed: list[str] = []
    failures: list[OSError] = []
    try:
        control = open_control()
    except OSError:
        return removed, failures  # without the control node no device was created
    with control:
        for name in control.devices():
            if not name.startswith(prefix):
                continue
            try:
                control.remove(name, deferred=True)
                removed.append(name)
            except OSError as failure:
                if failure.errno != errno.ENXIO:  # removed meanwhile
                    failures.append(failure)
    return removed, failures


def _load(control: Control, name: str, target: Target) -> None:
    """Load a table; repeat on ENOMEM until `_MEMORY_TIMEOUT`.

    dm-verity shares a slab cache between its devices. Removing the last device destroys the cache,
    but the cache's name in sysfs disappears a moment later. Creating a first device in that moment
    fails: EEXIST from kobject_add, reported as ENOMEM (observed on Linux 6.1: one of 50 mounts
    right after an unmount).
    """
    deadline = Deadline(_MEMORY_TIMEOUT)
    while True:
        try:
            control.load(name, target)
        except OSError as error:
            # An unknown kind is EINVAL as well, which reads as a problem of the parameters.
            if error.errno == errno.EINVAL and target.kind not in control.targets():
                raise _unsupported(target.kind) from None
            if error.errno != errno.ENOMEM or deadline.passed():
                raise
        else:
            return
        time.sleep(_MEMORY_PAUSE)


def _unsupported(kind: str) -> OSError:
    message = f"the kernel has no device-mapper target {kind}"
    return OSError(errno.EOPNOTSUPP, message, devicemapper.CONTROL)


def _remove(control: Control, name: str) -> None:
    # Called after a failure, which is reported instead. Another process that has the node open
    # (udev) only delays the removal.
    with contextlib.suppress(OSError):
        control.remove(name, deferred=True)


def _close_node(path: str, fd: int, created: bool) -> None:
    os.close(fd)
    if created:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
