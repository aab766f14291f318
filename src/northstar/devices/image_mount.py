"""Mounts package images below the run directory, and takes them away again.

Blocking: called in the thread pool. Half-way failures leave nothing: no directory, no loop device,
no device-mapper device.
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
from northstar.model import Verity
from northstar.npk import Npk

log = logging.getLogger("northstar.runtime")

_LINKS_MAX: Final = 40
"""Symbolic links that one path may lead through: path_resolution(7)."""

_FLAGS: Final = mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV


class Root(NamedTuple):
    """The root directory of a mounted image: what tells its mount from what else is at its path.

    Attributes:
        device: `st_dev`, which no other mounted file system has.
        inode: `st_ino`.
    """

    device: int
    inode: int


def mount_image(
    package: Npk, target: str, *, attach: Attach = loop_device.attach, how: Verity = "dm"
) -> Root:
    """Mount the image of `package` on `target`, which is made if it is missing.

    A package that was opened with a key is never mounted unverified.

    Args:
        package: an open package; its descriptor is only used during the call.
        target: the mount point, in the run directory.
        attach: binds a loop device.
        how: in which way a package that was opened with a key is verified.

    Returns:
        What is mounted now, for `is_mounted`.

    Raises:
        HostError: a verified mount on a kernel that lacks what it needs.
        VerificationError: the image is not what was signed.
        OSError: a step failed, with its path.
    """
    # Left over by a runtime that was killed; one with content is not ours to mount over.
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(target)
    os.mkdir(target, 0o755)
    try:
        # From the mount on it holds the device, and its end frees it (LO_FLAGS_AUTOCLEAR,
        # DM_DEFERRED_REMOVE).
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
    """Tell whether the mount that `mount_image` made on `target` is still there.

    Another program can remove the mount point: outside of our mount namespace it is an empty
    directory, and rmdir(2) there ends the mount in all other namespaces (Linux 3.18, commit
    8ed936b5671b "vfs: Lazily remove mounts on unlinked files and directories").

    Costs one stat(2) of what the kernel has in memory: it does not wait for the image's device.

    Args:
        target: the mount point.
        root: what `mount_image` returned.
    """
    try:
        return _root(target) == root
    except OSError:
        return False


def umount_image(target: str) -> bool:
    """Unmount what `mount_image` mounted on `target`, and remove the directory.

    Returns:
        False if another program had ended the mount already.

    Raises:
        OSError: EBUSY where something still uses it.
    """
    try:
        mount.umount2(target, mount.UMOUNT_NOFOLLOW)
        mounted = True
    except OSError as failure:
        # No such path, or no mount point.
        if failure.errno not in (errno.ENOENT, errno.EINVAL):
            raise
        mounted = False
    # It is unmounted, whatever becomes of the directory.
    try:
        os.rmdir(target)
    except FileNotFoundError:
        pass
    except OSError as failure:
        log.warning("Cannot remove a mount point, leaving it alone: %s", failure)
    return mounted


def has_directory(root: str, path: str) -> bool:
    """Tell whether `path` is a directory inside `root`, where symbolic links stay inside it.

    For images: nobody changes one meanwhile, so it can be looked at step by step. (The launcher
    resolves the path again, by means that hold anywhere.)
    """
    here: list[str] = []
    left = path.split("/")[::-1]
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            del here[-1:]
        if name in ("", ".", ".."):
            continue
        place = "/".join((root, *here, name))
        try:
            kind = os.lstat(place).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_ISLNK(kind) and links < _LINKS_MAX:
            links += 1
            target = os.readlink(place)
            here = [] if target.startswith("/") else here
            left += target.split("/")[::-1]
        elif stat.S_ISDIR(kind):
            here.append(name)
        else:
            return False
    return True
