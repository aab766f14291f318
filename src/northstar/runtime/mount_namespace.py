"""The runtime's own mount namespace: it gets the host's mounts, and the host gets none of its own.

All of this is for the time before there is another thread: unshare(2) is for the calling thread
only, and chroot(2) for all that share its file system attributes.
"""

from __future__ import annotations

import errno
import os

from northstar.linux import mount
from northstar.model import HostError, name_errno


def enter_mount_namespace() -> None:
    """Enter a new mount namespace, in which all mounts are slaves of the host's.

    In a chroot(2) the root directory is often no mount point. Then it is made one, by a bind mount
    of itself in the new namespace: without it neither the propagation of mounts can be changed
    (mount(2): EINVAL) nor can a container's init pivot (pivot_root(2): EINVAL).

    Raises:
        HostError: a step failed, and which one.
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
    # The new mount covers the root directory, but a path begins below it. After `..`, which leads
    # from a root directory to itself, the kernel goes on to what is mounted there.
    os.chroot("/..")
    os.chdir(here)


def _failed(step: str, failure: OSError, hint: str | None) -> HostError:
    reason = f"{failure.strerror} ({name_errno(failure.errno or 0)})"
    return HostError(f"cannot {step}: {reason}", hint=hint)
