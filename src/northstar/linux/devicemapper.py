"""Device-mapper: the ioctls of /dev/mapper/control, include/uapi/linux/dm-ioctl.h.

A device has a name of its maker's choice, under which all ioctls find it, and a number, after
which the kernel calls its node: /dev/dm-3. The links of names in /dev/mapper are the business of
udev, which need not be there: nothing here uses them or waits for them. The uevents, which cannot
be turned off, tell udev's rules to leave our devices alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.deadline import Deadline
from northstar.linux.descriptor import Descriptor

CONTROL: Final = "/dev/mapper/control"

VERSION: Final = (4, 0, 0)
"""What we speak. The kernel refuses another major number and a minor one above its own; all that
is used here is in 4.0, but for the deferred removal, which Linux 3.13 added (4.27)."""

_MISC_MAJOR: Final = 10

SECTOR: Final = 512
"""Bytes of a sector, whatever the sectors of the hardware are."""

NAME_MAX: Final = 127

DM_READONLY_FLAG: Final = 1 << 0
DM_BUFFER_FULL_FLAG: Final = 1 << 8
DM_DEFERRED_REMOVE: Final = 1 << 17

# What the rules of udev shall not do (libdevmapper.h): make links, let other subsystems and disks'
# rules look at the device. The last one marks an event that an ioctl caused.
DM_UDEV_DISABLE_DM_RULES_FLAG: Final = 0x01
DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG: Final = 0x02
DM_UDEV_DISABLE_DISK_RULES_FLAG: Final = 0x04
DM_UDEV_DISABLE_OTHER_RULES_FLAG: Final = 0x08
DM_UDEV_PRIMARY_SOURCE_FLAG: Final = 0x40
_COOKIE: Final = (
    DM_UDEV_DISABLE_DM_RULES_FLAG
    | DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG
    | DM_UDEV_DISABLE_DISK_RULES_FLAG
    | DM_UDEV_DISABLE_OTHER_RULES_FLAG
    | DM_UDEV_PRIMARY_SOURCE_FLAG
) << 16
"""The field event_nr of ioctls that cause uevents; no semaphore waits, so its low half is 0."""

# struct dm_ioctl: version[3], data_size, data_start, target_count, open_count, flags, event_nr,
# padding, dev, name[128], uuid[129], data[7]
_HEAD = struct.Struct("=3I3Ii3IQ128s129s7x")
assert _HEAD.size == 312, "sizeof(struct dm_ioctl), which the ioctls' numbers hold as well"
# struct dm_target_spec: sector_start, length, status, next, target_type[16]
_SPEC = struct.Struct("=QQiI16s")
assert _SPEC.size == 40, "sizeof(struct dm_target_spec)"
# struct dm_name_list and struct dm_target_versions, without their names
_NAME_LIST = struct.Struct("=QI")
_TARGET_VERSIONS = struct.Struct("=4I")

# fcntl.ioctl lets go of the interpreter's lock only for buffers up to 1024 bytes, and loading a
# table takes a while: so all usual requests fit into that.
_BUFFER: Final = 1024
_BUFFER_MAX: Final = 1 << 20

_SCARCE: Final = 1.0
_PAUSE: Final = 0.002


def _request(command: int) -> int:
    """Return _IOWR(DM_IOCTL, command, struct dm_ioctl): the same on x86 and ARM."""
    return 3 << 30 | _HEAD.size << 16 | 0xFD << 8 | command


DM_VERSION: Final = _request(0)
DM_LIST_DEVICES: Final = _request(2)
DM_DEV_CREATE: Final = _request(3)
DM_DEV_REMOVE: Final = _request(4)
DM_DEV_SUSPEND: Final = _request(6)
DM_TABLE_LOAD: Final = _request(9)
DM_TABLE_STATUS: Final = _request(12)
DM_LIST_VERSIONS: Final = _request(13)


class Target(NamedTuple):
    """A stretch of a device: `length` sectors from `start` on are the target `kind`'s.

    Attributes:
        start, length: in sectors of 512 bytes.
        kind: as `verity`, at most 15 bytes.
        text: its parameters, or its status.
    """

    start: int
    length: int
    kind: str
    text: str


class _Answer(NamedTuple):
    version: tuple[int, int, int]
    targets: int
    flags: int
    device: int
    data: bytes


class Control(Descriptor):
    """The control node, open: one method an ioctl. All raise OSError with the device's name."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            OSError: of the node; ENOENT, ENODEV or ENXIO if the kernel has no device-mapper.
        """
        super().__init__(_open_control())

    def version(self) -> tuple[int, int, int]:
        """Return the version of the kernel's interface, as (4, 47, 0)."""
        return self._ioctl(DM_VERSION).version

    def targets(self) -> dict[str, tuple[int, int, int]]:
        """Return the kinds of targets that the kernel has loaded, with their versions."""
        found = {}
        data = self._ioctl(DM_LIST_VERSIONS).data
        for position in _chain(data, _TARGET_VERSIONS, 0):
            _, *version = _TARGET_VERSIONS.unpack_from(data, position)
            name = _text(data, position + _TARGET_VERSIONS.size)
            found[name] = (version[0], version[1], version[2])
        return found

    def devices(self) -> dict[str, int]:
        """Return all devices: their numbers (`st_rdev`) by their names."""
        found = {}
        data = self._ioctl(DM_LIST_DEVICES).data
        for position in _chain(data, _NAME_LIST, 1):
            device, _ = _NAME_LIST.unpack_from(data, position)
            if device:  # an empty list is one entry without a device
                found[_text(data, position + _NAME_LIST.size)] = _makedev(device)
        return found

    def create(self, name: str) -> int:
        """Make a device without a table; return its number, as `st_rdev`.

        Raises:
            OSError: EBUSY if there is one of that name.
        """
        return _makedev(self._ioctl(DM_DEV_CREATE, name).device)

    def load(self, name: str, target: Target, *, read_only: bool = True) -> None:
        """Give a device the table it will have when it is resumed.

        Raises:
            OSError: EOPNOTSUPP if the kernel has no such kind of target; EINVAL for what the
                target refuses, about which the kernel's log says more.
        """
        parameters = target.text.encode() + b"\0"
        spec = _SPEC.pack(
            target.start,
            target.length,
            0,
            _SPEC.size + len(parameters) + -len(parameters) % 8,
            target.kind.encode(),
        )
        flags = DM_READONLY_FLAG if read_only else 0
        try:
            self._ioctl(DM_TABLE_LOAD, name, flags=flags, targets=1, data=spec + parameters)
        except OSError as error:
            # An unknown kind is EINVAL as well, which would send its reader the wrong way.
            if error.errno != errno.EINVAL or target.kind in self.targets():
                raise
            number = errno.EOPNOTSUPP
            message = f"the kernel has no device-mapper target {target.kind}"
            raise OSError(number, message, CONTROL) from None

    def resume(self, name: str) -> None:
        """Make the loaded table the device's own: DM_DEV_SUSPEND without DM_SUSPEND_FLAG."""
        self._ioctl(DM_DEV_SUSPEND, name, event=_COOKIE)

    def status(self, name: str) -> list[Target]:
        """Return the targets with their status in place of their parameters."""
        answer = self._ioctl(DM_TABLE_STATUS, name)
        found, position = [], 0
        for _ in range(answer.targets):
            start, length, _, following, kind = _SPEC.unpack_from(answer.data, position)
            text = _text(answer.data, position + _SPEC.size)
            found.append(Target(start, length, kind.rstrip(b"\0").decode(), text))
            # Unlike in the other lists, and in what is loaded, this counts from the list's start.
            position = following
        return found

    def remove(self, name: str, *, deferred: bool) -> None:
        """Remove a device, or with `deferred` as soon as nobody has it open.

        Raises:
            OSError: ENXIO if there is none of that name, EBUSY if it is open and not `deferred`.
        """
        self._ioctl(DM_DEV_REMOVE, name, flags=DM_DEFERRED_REMOVE if deferred else 0, event=_COOKIE)

    def _ioctl(
        self,
        request: int,
        name: str = "",
        *,
        flags: int = 0,
        event: int = 0,
        targets: int = 0,
        data: bytes = b"",
    ) -> _Answer:
        encoded = name.encode()
        if len(encoded) > NAME_MAX or b"\0" in encoded:
            # The kernel would take what is before the NUL: another device.
            raise OSError(errno.EINVAL, "not a name of a device-mapper device", name)
        size = max(_BUFFER, _HEAD.size + len(data) + 7)
        while True:
            buffer = bytearray(size)
            _HEAD.pack_into(
                buffer,
                0,
                *VERSION,
                *(size, _HEAD.size, targets, 0, flags, event, 0),
                *(0, encoded, b""),
            )
            buffer[_HEAD.size : _HEAD.size + len(data)] = data
            try:
                fcntl.ioctl(self._fd, request, buffer)
            except OSError as error:
                raise _refusal(error, buffer, name or CONTROL) from None
            answer = _answer(buffer)
            if not answer.flags & DM_BUFFER_FULL_FLAG or size >= _BUFFER_MAX:
                return answer
            size *= 4


class Device(Descriptor):
    """A device that is there while it is open or mounted; then the kernel removes it.

    Attributes:
        name: what the ioctls know it by.
        path: of its node, `/dev/dm-3`.
    """

    def __init__(self, control: Control, name: str, path: str, fd: int, made: bool) -> None:
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
        """Let go of the device: unless something is mounted from it, this removes it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close_node(self.path, fd, self._made)
        self._control.close()

    def __repr__(self) -> str:
        return f"Device({self.name!r}, {self.path!r})"


def attach(name: str, target: Target) -> Device:
    """Make a read-only device of one target, to be removed when it is last closed.

    Args:
        name: at most 127 bytes, unique on this machine: the kernel knows no namespaces of them.
        target: from sector 0 on.

    Raises:
        OSError: of the step that failed, with the device's name, its node or CONTROL; nothing is
            left behind.
    """
    with contextlib.ExitStack() as undo:
        control = undo.enter_context(Control())
        number = control.create(name)
        undo.callback(_remove, control, name)
        _load(control, name, target)
        control.resume(name)
        path = f"/dev/dm-{os.minor(number)}"
        fd, made = _open_node(path, number)
        undo.callback(_close_node, path, fd, made)
        control.remove(name, deferred=True)
        undo.pop_all()
    return Device(control, name, path, fd, made)


def _load(control: Control, name: str, target: Target) -> None:
    """Load a table, again and again while the kernel says that it has no memory for it.

    dm-verity shares a slab cache between its devices. Removing the last one destroys the cache,
    but its name in sysfs goes a moment later; who makes the first device again in that moment
    gets EEXIST from kobject_add, which arrives here as ENOMEM (seen on Linux 6.1: one of 50 mounts
    right after an unmount). A kernel that is really out of memory is told a second later.
    """
    deadline = Deadline(_SCARCE)
    while True:
        try:
            control.load(name, target)
        except OSError as error:
            if error.errno != errno.ENOMEM or deadline.passed():
                raise
        else:
            return
        time.sleep(_PAUSE)


def _remove(control: Control, name: str) -> None:
    # After a failure, which is what must be told. Who else has the node open (udev) only delays it.
    with contextlib.suppress(OSError):
        control.remove(name, deferred=True)


def _open_control() -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(CONTROL, flags)
    except FileNotFoundError:
        # A /dev of one's own (no devtmpfs) does not follow the kernel.
        minor = _misc_minor("device-mapper")
        if minor is None:
            raise
    os.makedirs(os.path.dirname(CONTROL), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mknod(CONTROL, stat.S_IFCHR | 0o600, os.makedev(_MISC_MAJOR, minor))
    return os.open(CONTROL, flags)


def _misc_minor(name: str) -> int | None:
    """Return the minor number of a driver in /proc/misc, or None if the kernel has it not."""
    with open("/proc/misc", encoding="ascii") as file:
        for line in file:
            minor, _, driver = line.strip().partition(" ")
            if driver == name:
                return int(minor)
    return None


def _open_node(path: str, number: int) -> tuple[int, bool]:
    """Open the node of a block device, and make it if nobody else did; return which it was."""
    made = False
    if not os.path.exists(path):
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | 0o600, number)
            made = True
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode) or status.st_rdev != number:
        os.close(fd)
        raise OSError(errno.ENOTBLK, "not the device-mapper device of that number", path)
    return fd, made


def _close_node(path: str, fd: int, made: bool) -> None:
    os.close(fd)
    if made:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _makedev(device: int) -> int:
    """Turn the kernel's packing of a device number (huge_encode_dev) into that of `st_rdev`."""
    return os.makedev((device >> 8) & 0xFFF, device & 0xFF | (device >> 12) & 0xFFF00)


def _answer(buffer: bytearray) -> _Answer:
    major, minor, patch, size, start, targets, _, flags, _, _, device, _, _ = _HEAD.unpack_from(
        buffer
    )
    return _Answer((major, minor, patch), targets, flags, device, bytes(buffer[start:size]))


def _chain(data: bytes, head: struct.Struct, field: int) -> Iterator[int]:
    """Yield the positions of a list's entries, whose `field` says how far the next one is."""
    position = 0
    while position + head.size <= len(data):
        yield position
        step = int(head.unpack_from(data, position)[field])
        if not step:
            return
        position += step


def _text(data: bytes, position: int) -> str:
    end = data.find(b"\0", position)
    return data[position : end if end >= 0 else len(data)].decode(errors="backslashreplace")


def _refusal(error: OSError, buffer: bytearray, name: str) -> OSError:
    # The kernel's own version comes back with a refusal too.
    version = _HEAD.unpack_from(buffer)[:3]
    if error.errno == errno.EINVAL and version[0] != VERSION[0]:
        spoken = ".".join(map(str, version))
        message = f"the kernel's device-mapper speaks {spoken}, this program {VERSION[0]}"
        return OSError(errno.EPROTONOSUPPORT, message, CONTROL)
    return OSError(error.errno, error.strerror, name)
