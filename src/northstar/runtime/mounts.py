"""Mounts package images below the run directory, and takes them away again.

Blocking: called in the thread pool. Half-way failures leave nothing: no directory, no loop device.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from northstar.linux import loop, mount, mountinfo, selinux
from northstar.model import HostError
from northstar.npk import Npk

_FLAGS: Final = mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV


def mount_image(package: Npk, target: str, *, loop_timeout: float) -> None:
    """Mount the image of `package` on `target`, which is made if it is missing.

    Args:
        package: an open package; its descriptor is only used during the call.
        target: the mount point.
        loop_timeout: seconds to fight for a loop device.

    Raises:
        HostError: a verified mount on a kernel without device-mapper.
        OSError: a step failed, with its path.
    """
    if package.hashes is not None:
        # Never fall back to an unverified mount: the repository has a key so that nothing
        # unverified is ever read.
        raise HostError(
            f"{package.container} must be verified by dm-verity, "
            "which this runtime cannot set up yet",
            hint="install it into a repository without a key",
        )
    # Left over by a runtime that was killed; one with content is not ours to mount over.
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(target)
    os.mkdir(target, 0o755)
    try:
        with loop.attach(
            package.fileno(),
            offset=package.fsimg_offset,
            sizelimit=package.fsimg_size,
            timeout=loop_timeout,
        ) as device:
            # From here the mount holds the device, and its end frees it (LO_FLAGS_AUTOCLEAR).
            mount.mount(device.path, target, package.filesystem, _FLAGS, _options(package))
    except BaseException:
        os.rmdir(target)
        raise


def _options(package: Npk) -> str:
    context = package.manifest.selinux and package.manifest.selinux.mount_context
    return f"context={context}" if context and selinux.enabled() else ""


def umount_image(target: str) -> None:
    """Unmount what `mount_image` mounted on `target`, and remove the directory.

    Raises:
        OSError: EBUSY where something still uses it.
    """
    mount.umount2(target, mount.UMOUNT_NOFOLLOW)
    os.rmdir(target)


def has_directory(root: str, path: str) -> bool:
    """Tell whether `path` is a directory inside `root`, where symbolic links stay inside it."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_MAGICLINKS
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        os.close(mount.openat2(base, path, flags, resolve=resolve))
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        os.close(base)
    return True


def clear(run_dir: str) -> None:
    """Unmount whatever a killed runtime left below `run_dir`, and remove its mount points.

    A runtime in a mount namespace of its own leaves no mounts, since they end with it.
    """
    below = os.path.realpath(run_dir) + "/"
    left = [entry.mount_point for entry in mountinfo.read() if entry.mount_point.startswith(below)]
    for target in reversed(left):
        mount.umount2(target, mount.MNT_DETACH)
    with os.scandir(run_dir) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_empty(entry.path)


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as failure:
        if failure.errno != errno.ENOTEMPTY:
            raise
