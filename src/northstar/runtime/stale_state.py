"""Finds, logs and removes the stale state of a killed runtime, before the start.

Most state ends with the process: mounts with its mount namespace, loop and device-mapper devices
with their last user, containers with their parent, locks with their descriptors. This module
removes mount points, mounts of a runtime without a separate mount namespace, unfinished devices,
sockets and cgroups. The repositories remove half-received packages. `data_wipe` completes
unfinished wipes, which takes longer than a start may.

No other process uses this state: the directories and the cgroup are locked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

from northstar.cgroups import CgroupHost, tree
from northstar.devices import loop_device, verified_device
from northstar.linux import mount, mountinfo
from northstar.model import Container, InvalidValueError, listed, sentence
from northstar.model.deadline import Deadline
from northstar.runtime import logs, null_device, terminal
from northstar.runtime.config import Config
from northstar.runtime.directories import NOTIFY

log = logging.getLogger("northstar.runtime")

_EXIT_TIMEOUT: Final = 1.5
"""Seconds to wait for the processes of a killed runtime to exit, in total."""


def unmount(run_dir: str) -> list[str]:
    """Unmount the mounts of a runtime without a separate mount namespace; return their names.

    This must happen in the namespace that contains the mounts: in a slave of it they would only be
    hidden. Only mount points that follow our naming scheme are unmounted: other mounts below
    `run_dir` belong to other programs.

    Args:
        run_dir: an absolute path without symbolic links; its lock is held.
    """
    below = run_dir + "/"
    points = [entry.mount_point for entry in mountinfo.read()]
    names = [point.removeprefix(below) for point in points if point.startswith(below)]
    removed = []
    with _few("cannot be unmounted") as warn:
        for name in reversed(names):
            if not _is_mount_point(name):
                continue
            try:
                mount.umount2(below + name, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
            except OSError as failure:
                warn("Cannot unmount what an earlier run left: %s", sentence(failure))
            else:
                removed.append(name)
    return sorted(removed)


def _few(what: str) -> contextlib.AbstractContextManager[Callable[..., None]]:
    return logs.first_few(logging.WARNING, "%d more of an earlier run %s", what)


def remove(config: Config, cgroups: CgroupHost, unmounted: Sequence[str]) -> None:
    """Remove all other stale state, and log what was removed. A failure is a warning.

    Blocks while processes of the killed runtime are still exiting.

    Args:
        config: with absolute paths.
        cgroups: the host's cgroup hierarchies.
        unmounted: the result of `unmount`.
    """
    found = {
        "mount": unmounted,
        "device": _devices(config.run_dir),
        "loop device": _loops(config),
        "mount point": _mount_points(config.run_dir),
        "socket": _sockets(config.socket_dir),
        **_notify(config.run_dir),
        "cgroup": _cgroups(cgroups, config.cgroup),
    }
    summary = [_summary(kind, names) for kind, names in found.items() if names]
    if summary:
        log.warning("Removed what an earlier run left: %s", ", ".join(summary))


def _summary(kind: str, names: Sequence[str]) -> str:
    plural = "" if len(names) == 1 else "s"
    return f"{len(names)} {kind}{plural} ({listed(names)})"


def _devices(run_dir: str) -> list[str]:
    removed, failures = verified_device.remove_stale(run_dir)
    for failure in failures:
        log.warning("Cannot remove the device of an earlier run: %s", sentence(failure))
    return removed


def _loops(config: Config) -> list[str]:
    stores = [c.dir for c in config.repositories.values() if c.dir is not None]
    detach = loop_device.detach_unfinished
    return [path for store in stores for path in detach(os.path.realpath(store))]


def _mount_points(run_dir: str) -> list[str]:
    removed = []
    with os.scandir(run_dir) as entries:
        for entry in entries:
            # A directory with contents could not be unmounted; other names are not ours.
            if _is_mount_point(entry.name) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    os.rmdir(entry.path)
                    removed.append(entry.name)
    return sorted(removed)


def _sockets(socket_dir: str) -> list[str]:
    removed = []
    with os.scandir(socket_dir) as entries, _few("sockets cannot be removed") as warn:
        for entry in entries:
            # The naming scheme of `listeners`: NAME:VERSION:SOCKET. SOCKET may contain colons.
            parts = entry.name.split(":", 2)
            if len(parts) < 3 or not _is_container(":".join(parts[:2])) or not _is_socket(entry):
                continue
            try:
                os.unlink(entry.path)
            except OSError as failure:
                warn("Cannot remove the socket of an earlier run: %s", sentence(failure))
            else:
                removed.append(entry.name)
    return sorted(removed)


def _notify(run_dir: str) -> dict[str, list[str]]:
    """Remove the directories of notify sockets; return the names of the sockets, and of theirs."""
    top = os.path.join(run_dir, NOTIFY)
    if not os.path.lexists(top):
        return {}
    from northstar.runtime import notify  # few runtimes need it

    if not notify.is_ours(top):
        return {}
    sockets = _notify_sockets(top, notify.remove)
    with contextlib.suppress(OSError):
        # A runtime that has not created a socket yet.
        os.rmdir(top)
        return {"notify socket": sockets, "directory": [NOTIFY]}
    return {"notify socket": sockets}


def _notify_sockets(top: str, remove: Callable[[str], None]) -> list[str]:
    removed = []
    with os.scandir(top) as entries, _few("notify sockets cannot be removed") as warn:
        for entry in entries:
            if not _is_container(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            try:
                remove(entry.path)
            except OSError as failure:
                warn("Cannot remove the notify socket of an earlier run: %s", sentence(failure))
            else:
                removed.append(entry.name)
    return sorted(removed)


def _is_mount_point(name: str) -> bool:
    """Return whether `name` follows our naming scheme for mount points in the run directory."""
    return name in (null_device.NAME, terminal.NAME) or _is_container(name)


def _is_container(name: str) -> bool:
    try:
        Container.parse(name)
    except InvalidValueError:
        return False
    return True


def _is_socket(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return False


def _cgroups(host: CgroupHost, top: str) -> list[str]:
    """Remove the containers' cgroups below the runtime's; return each name once.

    Cgroups below a `cgroups.parent` of a manifest are left to the next start of that container:
    their names do not distinguish them from cgroups of other programs.
    """
    removed: dict[str, None] = {}
    deadline = Deadline(_EXIT_TIMEOUT)
    with _few("cgroups cannot be removed") as warn:
        for hierarchy in host.hierarchies:
            for directory in tree.children(f"{hierarchy.path}/{top}"):
                try:
                    if tree.is_ours(directory):
                        continue
                    tree.remove(hierarchy, directory, deadline)
                except OSError as failure:
                    warn("Cannot remove a cgroup of an earlier run: %s", sentence(failure))
                else:
                    removed[os.path.basename(directory)] = None
    return sorted(removed)
