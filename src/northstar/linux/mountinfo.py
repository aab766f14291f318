"""The mounts of a process: /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_ESCAPE: Final = r"\\([01][0-7]{2})"


class MountInfo(NamedTuple):
    """One mount.

    Attributes:
        mount_id, parent_id: of this mount and of the mount that contains its mount point.
        major, minor: the device number (`st_dev`) of files on it.
        root: the directory of the file system that is mounted.
        mount_point: relative to the root of the process.
        options: of this mount, such as `ro` or `nosuid`.
        fields: optional fields, such as `shared:1`; empty for a private mount.
        fstype: `squashfs`, or with a subtype `fuse.x`.
        source: a device, or any text of the file system.
        super_options: of the file system, the same for all its mounts.
    """

    mount_id: int
    parent_id: int
    major: int
    minor: int
    root: str
    mount_point: str
    options: tuple[str, ...]
    fields: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


def unescape(text: str) -> str:
    r"""Undo the kernel's octal escapes: white space, `\` and `#` are written as \040 and so on."""
    return re.sub(_ESCAPE, lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def parse_line(line: str) -> MountInfo:
    """Parse one line.

    Raises:
        ValueError: it is not a line of a mountinfo file.
    """
    left, _, right = line.partition(" - ")
    try:
        mount_id, parent_id, device, root, mount_point, options, *fields = left.split(" ")
        fstype, source, super_options, *_ = right.split(" ")
        major, minor = device.split(":")
        return MountInfo(
            mount_id=int(mount_id),
            parent_id=int(parent_id),
            major=int(major),
            minor=int(minor),
            root=unescape(root),
            mount_point=unescape(mount_point),
            options=tuple(options.split(",")),
            fields=tuple(fields),
            fstype=unescape(fstype),
            source=unescape(source),
            super_options=tuple(unescape(option) for option in super_options.split(",")),
        )
    except ValueError:
        raise ValueError(f"not a line of mountinfo: {line!r}") from None


def parse(text: str) -> Iterator[MountInfo]:
    """Parse the whole file, in its order: a mount comes after its parent."""
    return (parse_line(line) for line in text.split("\n") if line)


def read(path: str = "/proc/self/mountinfo") -> list[MountInfo]:
    """Read the mounts of a process. Names that are not UTF-8 are decoded as by os.fsdecode.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return list(parse(file.read().decode("utf-8", "surrogateescape")))


def containing(path: str) -> MountInfo | None:
    """Return the mount that contains a file; None if this process does not see that mount.

    A path is not enough to find it, since a mount may be hidden below others. The kernel shows
    the mount's number for an open file: `mnt_id` of proc_pid_fdinfo(5).

    Raises:
        OSError: the file does not exist.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    finally:
        os.close(fd)
    number = int(fields["mnt_id"])
    return next((mount for mount in read() if mount.mount_id == number), None)
