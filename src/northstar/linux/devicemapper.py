"""Device-mapper: the ioctls of /dev/mapper/control, include/uapi/linux/dm-ioctl.h.

A device has a name, which its creator chooses and which all ioctls take, and a number, which is
part of the path of its node: /dev/dm-3. udev links the names in /dev/mapper; it may be absent, so
this module neither uses these links nor waits for them. The uevents cannot be turned off; they
carry flags that make udev's rules ignore these devices.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.linux.descriptor import Descriptor

CONTROL: Final = "/dev/mapper/control"

VERSION: Final = (4, 0, 0)
"""The version of the interface in our requests. The kernel refuses another major number, and a
minor number above its own. 4.0 has all that is used here except the deferred removal, which Linux
3.13 added (4.27)."""

SECTOR: Final = 512
"""Bytes of a sector in this interface, independent of the hardware's sectors."""

NAME_MAX: Final = 127

DM_READONLY_FLAG: Final = 1 << 0
DM_BUFFER_FULL_FLAG: Final = 1 << 8
DM_DEFERRED_REMOVE: Final = 1 << 17

# Flags for udev's rules (libdevmapper.h): make no links, do not run the rules of other subsystems
# and of disks. The last one marks an event that an ioctl caused.
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
"""The field event_nr of ioctls that cause uevents. Its low half names a semaphore; 0 is none."""

# struct dm_ioctl: version[3], data_size, data_start, target_count, open_count, flags, event_nr,
# padding, dev, name[128], uuid[129], data[7]
_HEAD = struct.Struct("=3I3Ii3IQ128s129s7x")
assert _HEAD.size == 312, "sizeof(struct dm_ioctl), which the ioctls' numbers contain too"
# struct dm_target_spec: sector_start, length, status, next, target_type[16]
_SPEC = struct.Struct("=QQiI16s")
assert _SPEC.size == 40, "sizeof(struct dm_target_spec)"
# struct dm_name_list and struct dm_target_versions, without their names
_NAME_LIST = struct.Struct("=QI")
_TARGET_VERSIONS = struct.Struct("=4I")

# fcntl.ioctl releases the interpreter's lock only for buffers up to 1024 bytes, and loading a
# table is slow. So all usual requests fit into that size.
_BUFFER: Final = 1024
_BUFFER_MAX: Final = 1 << 20


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
    """One entry of a device's table: the target `kind` maps `length` sectors from `start` on.

    Attributes:
        start, length: in sectors of 512 bytes.
        kind: the target's name, such as `verity`, at most 15 bytes.
        text: the target's parameters, or its status.
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
    """The open control node: one method per ioctl. All raise OSError with the device's name."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            OSError: ENOENT, ENODEV or ENXIO if the kernel lacks device-mapper; ENOENT also if
                only the node is missing.
        """
        super().__init__(os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC))

    def version(self) -> tuple[int, int, int]:
        """Return the version of the kernel's interface, such as (4, 47, 0)."""
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
        """Create a device without a table; return its number, as `st_rdev`.

        Raises:
            OSError: EBUSY if a device of that name exists.
        """
        return _makedev(self._ioctl(DM_DEV_CREATE, name).device)

    def load(self, name: str, target: Target, *, read_only: bool = True) -> None:
        """Load a table of one target, which `resume` makes active.

        Raises:
            OSError: EINVAL if the kernel lacks this kind of target, or if the target refuses its
                parameters (the kernel's log contains the reason).
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
        self._ioctl(DM_TABLE_LOAD, name, flags=flags, targets=1, data=spec + parameters)

    def resume(self, name: str) -> None:
        """Make the loaded table active: DM_DEV_SUSPEND without DM_SUSPEND_FLAG."""
        self._ioctl(DM_DEV_SUSPEND, name, event=_COOKIE)

    def status(self, name: str) -> list[Target]:
        """Return the active targets, with their status as `text`."""
        answer = self._ioctl(DM_TABLE_STATUS, name)
        found, position = [], 0
        for _ in range(answer.targets):
            start, length, _, following, kind = _SPEC.unpack_from(answer.data, position)
            text = _text(answer.data, position + _SPEC.size)
            found.append(Target(start, length, kind.rstrip(b"\0").decode(), text))
            # Here the offset counts from the list's start; in all other lists, and in a table that
            # is loaded, from the entry.
            position = following
        return found

    def remove(self, name: str, *, deferred: bool) -> None:
        """Remove a device; with `deferred` the kernel removes an open one at its last close.

        Raises:
            OSError: ENXIO if no device has that name, EBUSY if it is open and not `deferred`.
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
            # The kernel would use the part before the NUL: another device.
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


def node(number: int) -> str:
    """Return the path of a device's node, from its device number as `st_rdev`."""
    return f"/dev/dm-{os.minor(number)}"


def _makedev(device: int) -> int:
    """Convert a device number from the kernel's encoding (huge_encode_dev) to `st_rdev`."""
    return os.makedev((device >> 8) & 0xFFF, device & 0xFF | (device >> 12) & 0xFFF00)


def _answer(buffer: bytearray) -> _Answer:
    major, minor, patch, size, start, targets, _, flags, _, _, device, _, _ = _HEAD.unpack_from(
        buffer
    )
    return _Answer((major, minor, patch), targets, flags, device, bytes(buffer[start:size]))


def _chain(data: bytes, head: struct.Struct, field: int) -> Iterator[int]:
    """Yield the positions of a list's entries; `field` of each is the offset of the next one."""
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
    # The kernel writes its own version into the buffer even when it refuses.
    version = _HEAD.unpack_from(buffer)[:3]
    if error.errno == errno.EINVAL and version[0] != VERSION[0]:
        text = ".".join(map(str, version))
        message = f"the kernel's device-mapper has version {text}, this program needs {VERSION[0]}"
        return OSError(errno.EPROTONOSUPPORT, message, CONTROL)
    return OSError(error.errno, error.strerror, name)
