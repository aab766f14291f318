"""A null device for containers, separate from the host's /dev/null."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from northstar.linux import mount

_DEVICE: Final = os.makedev(1, 3)
"""admin-guide/devices.rst: 1 = memory devices, 3 = /dev/null."""


_REMOVED: Final = (errno.ENOENT, errno.EINVAL)
"""The directory does not exist, or is not a mount point."""

_TRIES: Final = 5

NAME: Final = "null"
"""Name of the mount point in the run directory, which exists only during `open_null`."""


def open_null(run_dir: str) -> int:
    """Open a null device for reading and writing whose inode cannot be changed.

    A payload holds a descriptor of it, and fchmod(2) needs no path. With CAP_FOWNER, CAP_CHOWN or
    as user 0 a container could make the host's /dev/null unusable, and any container could watch
    its use (inotify(7)). This device is on a separate, read-only file system, which still allows
    writing to devices.

    Args:
        run_dir: the device is mounted below it temporarily. Another program may remove the mount
            point meanwhile: outside of the runtime's mount namespace it is an empty directory.

    Raises:
        OSError: includes the path.
    """
    for _ in range(_TRIES):
        try:
            return _open_null(run_dir)
        except OSError as failure:
            if failure.errno not in _REMOVED:
                raise
    return _open_null(run_dir)


def _open_null(run_dir: str) -> int:
    directory = os.path.join(run_dir, NAME)
    node = os.path.join(directory, "null")
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    try:
        flags = mount.MS_NOSUID | mount.MS_NOEXEC
        with detached_mount(directory, "tmpfs", flags, "mode=755,size=4k"):
            os.mknod(node, stat.S_IFCHR | 0o666, _DEVICE)
            os.chmod(node, 0o666)  # noqa: S103, the mode of /dev/null, independent of the umask
            flags = mount.MS_REMOUNT | mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NOEXEC
            mount.mount("none", directory, "tmpfs", flags, "")
            return os.open(node, os.O_RDWR | os.O_CLOEXEC)
    finally:
        # Another program that removes empty directories may have removed it already.
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


@contextlib.contextmanager
def detached_mount(directory: str, fstype: str, flags: int, options: str) -> Iterator[None]:
    """Mount a file system, and detach it at the end. A descriptor that is open then keeps it alive.

    Args:
        directory: the mount point. Another program may remove it meanwhile.
        fstype: of the file system.
        flags: of mount(2).
        options: of the file system.

    Raises:
        OSError: it cannot be mounted.
    """
    mount.mount("none", directory, fstype, flags, options)
    try:
        yield
    finally:
        # The open descriptor keeps the detached file system alive.
        try:
            mount.umount2(directory, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError as failure:
            # If the directory was removed in another mount namespace, the mount ended as well.
            if failure.errno not in _REMOVED:
                raise


def reopen(null: int) -> int:
    """Open it again: a shared file description would share its flags and locks.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM.
    """
    return os.open(f"/proc/self/fd/{null}", os.O_RDWR | os.O_CLOEXEC)
