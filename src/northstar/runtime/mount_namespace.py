"""The runtime's mount namespace: it receives the host's mounts, and the host receives none of its.

Call this before other threads exist: unshare(2) changes the calling thread only, and chroot(2) all
threads that share its file system attributes.
"""

from __future__ import annotations

import errno
import os

from northstar.linux import mount
from northstar.model import HostError, name_errno


def enter_mount_namespace() -> None:
    """Enter a new mount namespace, in which all mounts are slaves of the host's.

    In a chroot(2) the root directory is often not a mount point. Then it is bind-mounted on itself
    in the new namespace. Otherwise the propagation of mounts could not be changed (mount(2):
    EINVAL), and a container's init could not pivot (pivot_root(2): EINVAL).

    Raises:
        HostError: names the step that failed.
    """
    try:
        mount.unshare(mount.CLONE_NEWNS)
    except OSError as failure:
        hint = "give the runtime the capability CAP_SYS_ADMIN, without which no container starts"
        raise _failed("enter a mount namespace", failure, hint) from failure
    try:
        _make_slave()
    except OSError as failure:
        if failure.errno != errno.EINVAL:
            raise _failed("make the mounts slaves of the host's", failure, None) from failure
    else:
        return
    try:
        _make_root_a_mount_point()
        _make_slave()
    except OSError as failure:
        raise _failed(
            "make / a mount point, which it is not here (chroot)",
            failure,
            "bind the directory to itself before the chroot: mount --rbind DIRECTORY DIRECTORY",
        ) from failure


def _make_slave() -> None:
    mount.mount("", "/", "", mount.MS_REC | mount.MS_SLAVE, "")


def _make_root_a_mount_point() -> None:
    here = os.getcwd()
    mount.mount("/", "/", None, mount.MS_BIND | mount.MS_REC)
    # The new mount covers the root directory, but path lookup starts below the mount. `..` leads
    # from a root directory to itself, and the kernel then follows the mount on it.
    os.chroot("/..")
    os.chdir(here)


def _failed(step: str, failure: OSError, hint: str | None) -> HostError:
    reason = f"{failure.strerror} ({name_errno(failure.errno or 0)})"
    return HostError(f"cannot {step}: {reason}", hint=hint)
