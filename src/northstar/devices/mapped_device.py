"""Makes device-mapper devices that the kernel removes again when they are last closed."""

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
"""Its name in /proc/misc."""

_MEMORY_TIMEOUT: Final = 1.0
_MEMORY_PAUSE: Final = 0.002
"""Seconds that a table is tried again for which the kernel has no memory, and between two tries."""


class MappedDevice(Descriptor):
    """A device that exists while it is open or mounted; then the kernel removes it.

    Attributes:
        name: by which the ioctls find it.
        path: of its node, `/dev/dm-3`.
    """

    def __init__(self, control: Control, name: str, path: str, fd: int, made: bool) -> None:
        """Own the control node and `fd`, the open node, from now on.

        Args:
            control: the control node.
            name: of the device.
            path: of its node.
            fd: the open node.
            made: the node was made here, and is removed by `close`.
        """
        self.name = name
        self.path = path
        self._control = control
        self._made = made
        super().__init__(fd)

    def status(self) -> str:
        """Return the status of the device's one target, for `verity` `V` or `C` (corrupted).

        Raises:
            OSError: ENXIO if it is gone.
        """
        return self._control.status(self.name)[0].text

    def close(self) -> None:
        """Close the device: unless something is mounted from it, this removes it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close_node(self.path, fd, self._made)
        self._control.close()

    def __repr__(self) -> str:
        return f"MappedDevice({self.name!r}, {self.path!r})"


def attach(name: str, target: Target) -> MappedDevice:
    """Make a read-only device of one target, to be removed when it is last closed.

    Args:
        name: at most 127 bytes, unique on this machine: the kernel has no namespaces of them.
        target: from sector 0 on.

    Raises:
        OSError: of the step that failed, with the device's name, its node or the control node;
            EOPNOTSUPP if the kernel has no such kind of target. Nothing is left behind.
    """
    with contextlib.ExitStack() as undo:
        control = undo.enter_context(open_control())
        number = control.create(name)
        undo.callback(_remove, control, name)
        _load(control, name, target)
        control.resume(name)
        path = devicemapper.node(number)
        fd, made = node.open_block(
            path,
            lambda: number,
            accepts=lambda device: device == number,
            refusal="not the device-mapper device of that number",
        )
        undo.callback(_close_node, path, fd, made)
        control.remove(name, deferred=True)
        undo.pop_all()
    return MappedDevice(control, name, path, fd, made)


def open_control() -> Control:
    """Open device-mapper's control node; make it if only the node is missing.

    Raises:
        OSError: ENOENT, ENODEV or ENXIO if the kernel has no device-mapper.
    """
    try:
        return Control()
    except FileNotFoundError:
        minor = procfs.misc().get(_DRIVER)
        if minor is None:
            raise
    node.make_character(devicemapper.CONTROL, os.makedev(procfs.MISC_MAJOR, minor))
    return Control()


def remove_all(prefix: str) -> tuple[list[str], list[OSError]]:
    """Remove all devices whose names begin with `prefix`; those that are in use when they are not.

    Returns:
        The names of the devices that are removed, or will be, and why others cannot be.
    """
    removed: list[str] = []
    failures: list[OSError] = []
    try:
        control = open_control()
    except OSError:
        return removed, failures  # who cannot open it has never made a device
    with control:
        for name in control.devices():
            if not name.startswith(prefix):
                continue
            try:
                control.remove(name, deferred=True)
                removed.append(name)
            except OSError as failure:
                if failure.errno != errno.ENXIO:  # just gone by itself
                    failures.append(failure)
    return removed, failures


def _load(control: Control, name: str, target: Target) -> None:
    """Load a table, again and again while the kernel says that it has no memory for it.

    dm-verity shares a slab cache between its devices. Removing the last one destroys the cache,
    but its name in sysfs goes a moment later; a process that makes the first device again in that
    moment gets EEXIST from kobject_add, which arrives here as ENOMEM (seen on Linux 6.1: one of 50
    mounts right after an unmount). A kernel that is really out of memory is reported after
    `_MEMORY_TIMEOUT`.
    """
    deadline = Deadline(_MEMORY_TIMEOUT)
    while True:
        try:
            control.load(name, target)
        except OSError as error:
            # An unknown kind is EINVAL as well, which would point its reader to the parameters.
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
    # After a failure, which is what must be reported. A process that has the node open as well
    # (udev) only delays the removal.
    with contextlib.suppress(OSError):
        control.remove(name, deferred=True)


def _close_node(path: str, fd: int, made: bool) -> None:
    os.close(fd)
    if made:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
