"""A /dev/null for containers that is not the host's."""

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
"""There is no such directory, or it is no mount point."""

_TRIES: Final = 5

NAME: Final = "null"
"""Of the mount point in the run directory, which is there for a moment."""


def open_null(run_dir: str) -> int:
    """Open a null device for reading and writing that nothing can change.

    A payload holds it as a descriptor, and fchmod(2) on one needs no path. With CAP_FOWNER, with
    CAP_CHOWN or as user 0 a container could so take /dev/null away from the whole host, and anybody
    could watch who uses it (inotify(7)). This one is on a file system of its own, which is read
    only: writing to a device is allowed there all the same.

    Args:
        run_dir: where it is mounted for a moment. Another program may remove the mount point
            meanwhile, which is an empty directory outside of our mount namespace.

    Raises:
        OSError: with the path.
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
        with _tmpfs(directory):
            os.mknod(node, stat.S_IFCHR | 0o666, _DEVICE)
            os.chmod(node, 0o666)  # noqa: S103, it is what a /dev/null has, whatever the umask
            flags = mount.MS_REMOUNT | mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NOEXEC
            mount.mount("none", directory, "tmpfs", flags, "")
            return os.open(node, os.O_RDWR | os.O_CLOEXEC)
    finally:
        # Another program that removes empty directories may have been quicker.
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


@contextlib.contextmanager
def _tmpfs(directory: str) -> Iterator[None]:
    mount.mount("none", directory, "tmpfs", mount.MS_NOSUID | mount.MS_NOEXEC, "mode=755,size=4k")
    try:
        yield
    finally:
        # What is open keeps the file system alive, without a place.
        try:
            mount.umount2(directory, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError as failure:
            # To remove the directory, outside of our mount namespace, ends the mount as well.
            if failure.errno not in _REMOVED:
                raise


def reopen(null: int) -> int:
    """Open it again: containers that share one would share its flags and locks too.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM.
    """
    return os.open(f"/proc/self/fd/{null}", os.O_RDWR | os.O_CLOEXEC)
