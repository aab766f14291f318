"""Mounts package images below the run directory, and takes them away again.

Blocking: called in the thread pool. Half-way failures leave nothing: no directory, no loop device,
no device-mapper device.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final

from northstar.devices import loop_device, verified_device
from northstar.devices.loop_device import Attach
from northstar.linux import mount, selinuxfs
from northstar.model import Verity
from northstar.npk import Npk

_LINKS_MAX: Final = 40
"""Symbolic links that one path may lead through: path_resolution(7)."""

_FLAGS: Final = mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV


def mount_image(
    package: Npk, target: str, *, attach: Attach = loop_device.attach, how: Verity = "dm"
) -> None:
    """Mount the image of `package` on `target`, which is made if it is missing.

    A package that was opened with a key is never mounted unverified.

    Args:
        package: an open package; its descriptor is only used during the call.
        target: the mount point, in the run directory.
        attach: binds a loop device.
        how: in which way a package that was opened with a key is verified.

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
        os.rmdir(target)
        raise


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


def umount_image(target: str) -> None:
    """Unmount what `mount_image` mounted on `target`, and remove the directory.

    Raises:
        OSError: EBUSY where something still uses it.
    """
    mount.umount2(target, mount.UMOUNT_NOFOLLOW)
    os.rmdir(target)


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
