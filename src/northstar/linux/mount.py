"""Mounts and namespaces: mount(2), the file descriptor based mount API, openat2(2), setns(2).

Constants: include/uapi/linux/mount.h, fcntl.h, openat2.h and sched.h of the kernel.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from northstar.linux._libc import function, path_bytes, syscall

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

# fsopen(2), fsconfig(2), fsmount(2)
FSOPEN_CLOEXEC: Final = 0x1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
FSMOUNT_CLOEXEC: Final = 0x1
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR__ATIME: Final = 0x70
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000

# move_mount(2), open_tree(2), *at(2)
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
OPEN_TREE_CLONE: Final = 0x1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

# openat2(2)
RESOLVE_NO_XDEV: Final = 0x1
RESOLVE_NO_MAGICLINKS: Final = 0x2
RESOLVE_NO_SYMLINKS: Final = 0x4
RESOLVE_BENEATH: Final = 0x8
RESOLVE_IN_ROOT: Final = 0x10
RESOLVE_CACHED: Final = 0x20

_int = ctypes.c_int
_uint = ctypes.c_uint
_str = ctypes.c_char_p
_ptr = ctypes.c_void_p

_mount = function("mount", _str, _str, _str, ctypes.c_ulong, _str, paths=(0, 1))
_umount2 = function("umount2", _str, _int, paths=(0,))
_unshare = function("unshare", _int)
_setns = function("setns", _int, _int)
_open_tree = syscall(428, _int, _str, _uint, paths=(1,))
_move_mount = syscall(429, _int, _str, _int, _str, _uint, paths=(1, 3))
_fsopen = syscall(430, _str, _uint, paths=(0,))
_fsconfig = syscall(431, _int, _uint, _str, _str, _int, paths=(2,))
_fsmount = syscall(432, _int, _uint, _uint)
_openat2 = syscall(437, _int, _str, _str, ctypes.c_size_t, paths=(1,))
_mount_setattr = syscall(442, _int, _str, _uint, _str, ctypes.c_size_t, paths=(1,))


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
        OSError: EBUSY while a file below it is open, EINVAL if it is no mount point.
    """
    _umount2(path_bytes(target), flags)


def unshare(flags: int) -> None:
    """Give the calling *thread* namespaces of its own.

    A mount namespace is per thread too: threads that run already stay in the old one, so this
    belongs before the first of them.
    """
    _unshare(flags)


def setns(fd: int, nstype: int) -> None:
    """Move the calling thread into the namespace of `fd`, which must be `nstype`."""
    _setns(fd, nstype)


def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """Open a context to configure a file system in. The caller owns the descriptor.

    Raises:
        OSError: ENODEV if the kernel has no such file system.
    """
    return _fsopen(path_bytes(fstype), flags)


def fsconfig_set_string(fd: int, key: str, value: str) -> None:
    """Set the option `key=value`, or the source: fsconfig(2) with FSCONFIG_SET_STRING."""
    _fsconfig(fd, FSCONFIG_SET_STRING, path_bytes(key), path_bytes(value), 0)


def fsconfig_set_flag(fd: int, key: str) -> None:
    """Set an option that has no value, as `ro`: fsconfig(2) with FSCONFIG_SET_FLAG."""
    _fsconfig(fd, FSCONFIG_SET_FLAG, path_bytes(key), None, 0)


def fsconfig_create(fd: int) -> None:
    """Make the superblock: fsconfig(2), FSCONFIG_CMD_CREATE. `fscontext_log` says why not."""
    _fsconfig(fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fscontext_log(fd: int) -> list[str]:
    """Return what the kernel has to say about an fsopen context, each with its level: `e ...`.

    Reading takes a message off the queue; ENODATA is its end.
    """
    messages = []
    while True:
        try:
            messages.append(os.read(fd, 4096).decode(errors="backslashreplace").rstrip("\n"))
        except OSError:
            return messages


def fsmount(fd: int, flags: int = FSMOUNT_CLOEXEC, attributes: int = 0) -> int:
    """Make a detached mount of a created context. The caller owns it."""
    return _fsmount(fd, flags, attributes)


def open_tree(dirfd: int, path: _Path, flags: int) -> int:
    """Open a mount, with OPEN_TREE_CLONE a detached copy of it."""
    return _open_tree(dirfd, path_bytes(path), flags)


def move_mount(
    from_dirfd: int, from_path: _Path, to_dirfd: int, to_path: _Path, flags: int
) -> None:
    """Attach a detached mount, or move an attached one."""
    _move_mount(from_dirfd, path_bytes(from_path), to_dirfd, path_bytes(to_path), flags)


def mount_setattr(
    dirfd: int,
    path: _Path,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
) -> None:
    """Change MOUNT_ATTR_* of a mount, with AT_RECURSIVE of all below it too.

    Raises:
        OSError: EINVAL for attributes the kernel lacks, ENOSYS before Linux 5.12.
    """
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = struct.pack("=QQQQ", attr_set, attr_clr, propagation, 0)
    _mount_setattr(dirfd, path_bytes(path), flags, attributes, len(attributes))


def openat2(dirfd: int, path: _Path, flags: int, *, resolve: int = 0, mode: int = 0) -> int:
    """Open with rules for the walk (RESOLVE_*), close-on-exec. The caller owns it.

    Raises:
        OSError: EXDEV or ELOOP where the walk breaks a rule, EAGAIN if a rename raced with a
            RESOLVE_BENEATH or RESOLVE_IN_ROOT walk through `..`, ENOSYS before Linux 5.6.
    """
    # struct open_how: flags, mode, resolve
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    return _openat2(dirfd, path_bytes(path), how, len(how))
