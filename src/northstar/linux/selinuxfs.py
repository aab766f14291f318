"""Whether SELinux is enabled: selinuxfs is mounted (is_selinux_enabled(3))."""

from __future__ import annotations

from collections.abc import Iterable

from northstar.linux import mountinfo


def enabled(mounts: Iterable[mountinfo.MountInfo] | None = None) -> bool:
    """Return whether SELinux is enabled.

    Args:
        mounts: of this process; read if None.

    Raises:
        OSError: the mounts cannot be read.
    """
    return any(
        mount.fstype == "selinuxfs" for mount in (mountinfo.read() if mounts is None else mounts)
    )
