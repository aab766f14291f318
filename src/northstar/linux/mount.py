"""Mounts and namespaces: mount(2), umount2(2), unshare(2), setns(2).

Every supported kernel has these calls. The launcher makes the mounts of a container, and uses newer
calls for them. Constants: include/uapi/linux/mount.h and sched.h of the kernel.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from northstar.linux._libc import function, path_bytes

_Path = str | bytes | os.PathLike[str]

# mount(2)
MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_SYNCHRONOUS: Final = 0x10
MS_REMOUNT: Final = 0x20
MS_NOSYMFOLLOW: Final = 0x100
MS_NOATIME: Final = 0x400
MS_NODIRATIME: Final = 0x800
MS_BIND: Final = 0x1000
MS_MOVE: Final = 0x2000
MS_REC: Final = 0x4000
MS_SILENT: Final = 0x8000
MS_UNBINDABLE: Final = 0x20000
MS_PRIVATE: Final = 0x40000
MS_SLAVE: Final = 0x80000
MS_SHARED: Final = 0x100000
MS_RELATIME: Final = 0x200000
MS_STRICTATIME: Final = 0x1000000

# umount2(2)
MNT_FORCE: Final = 0x1
MNT_DETACH: Final = 0x2
MNT_EXPIRE: Final = 0x4
UMOUNT_NOFOLLOW: Final = 0x8

# clone(2), unshare(2), setns(2)
CLONE_NEWTIME: Final = 0x80
CLONE_NEWNS: Final = 0x20000
CLONE_NEWCGROUP: Final = 0x2000000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

# mount_setattr(2), in plans for the launcher
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

_int = ctypes.c_int
_str = ctypes.c_char_p

_mount = function("mount", _str, _str, _str, ctypes.c_ulong, _str, paths=(0, 1))
_umount2 = function("umount2", _str, _int, paths=(0,))
_unshare = function("unshare", _int)
_setns = function("setns", _int, _int)


def mount(
    source: _Path | None, target: _Path, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    """Mount, or change a mount. None is a null pointer: no source, type or data.

    Raises:
        OSError: the kernel's errno, with source and target as its file names.
    """
    _mount(
        None if source is None else path_bytes(source),
        path_bytes(target),
        None if fstype is None else path_bytes(fstype),
        flags,
        None if data is None else path_bytes(data),
    )


def umount2(target: _Path, flags: int = 0) -> None:
    """Unmount.

    Raises:
        OSError: EBUSY while a file on it is open, EINVAL if `target` is no mount point.
    """
    _umount2(path_bytes(target), flags)


def unshare(flags: int) -> None:
    """Move the calling *thread* into new namespaces.

    This includes the mount namespace. Other threads of the process stay in the old one, so call
    this before the first thread is started.
    """
    _unshare(flags)


def setns(fd: int, nstype: int) -> None:
    """Move the calling thread into the namespace of `fd`, which must be `nstype`."""
    _setns(fd, nstype)
