"""Mounts package images in the run directory, and unmounts them.

The functions block. A failed mount leaves no directory, loop device or device-mapper device.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.devices import loop_device, verified_device
from northstar.devices.loop_device import Attach
from northstar.linux import mount, selinuxfs
from northstar.model import Verity, sentence
from northstar.npk import Npk

log = logging.getLogger("northstar.runtime")

_LINKS_MAX: Final = 40
"""Maximum of symbolic links in the resolution of one path: path_resolution(7)."""

_FLAGS: Final = mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV


class Root(NamedTuple):
    """The root directory of a mounted image. It identifies the mount at the mount point.

    Attributes:
        device: `st_dev`, unique among the mounted file systems.
        inode: `st_ino`.
    """

    device: int
    inode: int


def mount_image(
    package: Npk, target: str, *, attach: Attach = loop_device.attach, how: Verity = "dm"
) -> Root:
    """Mount the image of `package` on `target`, which is created if it is missing.

    A package that was opened with a key is never mounted unverified.

    Args:
        package: an open package; its descriptor is only used during the call.
        target: the mount point, in the run directory.
        attach: binds a loop device.
        how: the method of verification of a package that was opened with a key.

    Returns:
        The root of the mounted image, for `is_mounted`.

    Raises:
        HostError: the kernel lacks a feature for the verification.
        VerificationError: the image is not what was signed.
        OSError: a step failed, with its path.
    """
    # A killed runtime leaves an empty directory. One with content is an error: a mount on it would
    # hide files of another program.
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(target)
    os.mkdir(target, 0o755)
    try:
        # The mount keeps the device open; the kernel frees the device at the unmount
        # (LO_FLAGS_AUTOCLEAR, DM_DEFERRED_REMOVE).
        with _device(package, os.path.dirname(target), how, attach) as device:
            mount.mount(device, target, package.filesystem, _FLAGS, _options(package))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(target)
        raise
    return _root(target)


@contextlib.contextmanager
def _device(package: Npk, run_dir: str, how: Verity, attach: Attach) -> Iterator[str]:
    if package.hashes is not None:
        with verified_device.attached(package, run_dir, how, attach) as path:
            yield path
        return
    with attach(
        package.fileno(), offset=package.fsimg_offset, sizelimit=package.fsimg_size
    ) as unverified:
        yield unverified.path


def _options(package: Npk) -> str:
    context = package.manifest.selinux and package.manifest.selinux.mount_context
    return f"context={context}" if context and selinuxfs.enabled() else ""


def _root(target: str) -> Root:
    status = os.stat(target)
    return Root(status.st_dev, status.st_ino)


def is_mounted(target: str, root: Root) -> bool:
    """Return whether the mount that `mount_image` made on `target` still exists.

    Another program can remove the mount point: outside of the runtime's mount namespace it is an
    empty directory, and rmdir(2) there ends the mount in all other namespaces (Linux 3.18, commit
    8ed936b5671b "vfs: Lazily remove mounts on unlinked files and directories").

    This is one stat(2) of an inode in the kernel's memory: it does not wait for the image's device.

    Args:
        target: the mount point.
        root: what `mount_image` returned.
    """
    try:
        return _root(target) == root
    except OSError:
        return False


def umount_image(target: str) -> bool:
    """Unmount the image that `mount_image` mounted on `target`, and remove the directory.

    Returns:
        False if another program had ended the mount already.

    Raises:
        OSError: EBUSY while the mount is used.
    """
    try:
        mount.umount2(target, mount.UMOUNT_NOFOLLOW)
        mounted = True
    except OSError as failure:
        # The path does not exist, or is no mount point.
        if failure.errno not in (errno.ENOENT, errno.EINVAL):
            raise
        mounted = False
    # The image is unmounted, so a directory that stays is only a warning.
    try:
        os.rmdir(target)
    except FileNotFoundError:
        pass
    except OSError as failure:
        log.warning("Cannot remove a mount point, leaving it alone: %s", sentence(failure))
    return mounted


def has_directory(root: str, path: str) -> bool:
    """Return whether `path` is a directory inside `root`, with symbolic links resolved below it.

    Only for images: they do not change, so resolving a path name by name is safe. (The launcher
    resolves the path again, in a way that is safe for any directory.)
    """
    resolved: list[str] = []
    pending = path.split("/")[::-1]
    links = 0
    while pending:
        name = pending.pop()
        if name == "..":
            del resolved[-1:]
        if name in ("", ".", ".."):
            continue
        current = "/".join((root, *resolved, name))
        try:
            mode = os.lstat(current).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_ISLNK(mode) and links < _LINKS_MAX:
            links += 1
            target = os.readlink(current)
            resolved = [] if target.startswith("/") else resolved
            pending += target.split("/")[::-1]
        elif stat.S_ISDIR(mode):
            resolved.append(name)
        else:
            return False
    return True
