"""The files that packing adds to a root directory: mount points of the manifest, and device nodes.

This module only reads the root directory, and decides which directories, device nodes and links are
missing; the image tools create them. Existing files are not added again, because a second
definition of a path would conflict with the first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from northstar.manifest import Bind, Dev, Manifest, MountOption, Proc, Resource, Sysfs
from northstar.model import DEVICE_LINKS, DEVICE_NODES, DeviceNode, PackageError

PARENT_MODE: Final = 0o755
"""Mode of a parent directory of a mount point."""

NODE_MODE: Final = 0o666
LINK_MODE: Final = 0o777

_PATH_MAX: Final = 4096
_LINKS_MAX: Final = 40
"""Most symbolic links in the resolution of a path: the kernel's limit (path_resolution(7))."""


class MountPoint(NamedTuple):
    """A mount point in the image.

    Attributes:
        target: absolute path in the container.
        mode: mode of the directory, if packing creates it.
        file: whether the target may be a file (a bind mount of a file).
        nodes: whether packing adds device nodes to it.
        links: whether packing adds the links to /proc/self/fd to it.
    """

    target: str
    mode: int
    file: bool = False
    nodes: bool = False
    links: bool = False


class Addition(NamedTuple):
    """A file that packing adds to the image.

    A directory, or a character device (`node`), or a symbolic link to `link`.
    """

    path: str
    mode: int
    node: DeviceNode | None = None
    link: str | None = None


def mount_points(manifest: Manifest) -> list[MountPoint]:
    """Return the mount points of a manifest: of its `mounts`, and of its notify socket."""
    links = isinstance(manifest.mounts.get("/proc"), Proc)
    points = []
    for target, mount in manifest.mounts.items():
        match mount:
            case Bind(options=options):
                mode = 0o755 if MountOption.RW in options else 0o555
                points.append(MountPoint(target, mode, file=True))
            case Dev():
                points.append(MountPoint(target, 0o755, nodes=True, links=links))
            case Proc() | Sysfs():
                points.append(MountPoint(target, 0o444))
            case Resource():
                # The `dir` of a resource mount may be a file.
                points.append(MountPoint(target, 0o555, file=True))
            case _:
                points.append(MountPoint(target, 0o755))
    if manifest.service is not None and manifest.service.notify is not None:
        points.append(MountPoint(manifest.service.notify, 0o755))
    return points


def plan(points: Iterable[MountPoint], root: str | None) -> list[Addition]:
    """Return the files to add to `root` (None: an empty directory), parents first.

    Raises:
        PackageError: the root directory contains a file of another type at one of the paths.
    """
    directories: dict[str, int] = {}
    leaves: dict[str, Addition] = {}
    for point in points:
        if len(point.target.encode()) >= _PATH_MAX:
            # Nothing can be mounted there, and each of its levels would become an addition.
            raise PackageError(
                f"the mount target {point.target[:100]}... is longer than a path may be "
                f"({_PATH_MAX - 1} bytes)"
            )
        path, mode = _resolve(root, point.target)
        if mode is None:
            directories[path] = point.mode
        elif not (stat.S_ISDIR(mode) or point.file):
            raise _conflict(path, mode, "a directory", point.target)
        if point.nodes:
            for addition in _device_files(root, path, links=point.links):
                leaves[addition.path] = addition
    for path in list(directories):
        for parent in _parents(path):
            if parent not in directories and _lstat(root, parent) is None:
                directories[parent] = PARENT_MODE
    additions = leaves | {path: Addition(path, mode) for path, mode in directories.items()}
    return [additions[path] for path in sorted(additions)]


def _device_files(root: str | None, directory: str, *, links: bool) -> list[Addition]:
    prefix = directory.rstrip("/")
    wanted = [Addition(f"{prefix}/{node.name}", NODE_MODE, node=node) for node in DEVICE_NODES]
    if links:
        wanted += [
            Addition(f"{prefix}/{name}", LINK_MODE, link=target) for name, target in DEVICE_LINKS
        ]
    return [addition for addition in wanted if not _exists(root, addition)]


def _exists(root: str | None, addition: Addition) -> bool:
    status = _lstat(root, addition.path)
    if status is None:
        return False
    if addition.node is None:
        if not stat.S_ISLNK(status.st_mode):
            raise _conflict(addition.path, status.st_mode, "a symbolic link", addition.path)
        return True
    name, major, minor = addition.node
    device = os.makedev(major, minor)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != device:
        wanted = f"the character device {name} ({major}:{minor})"
        raise _conflict(addition.path, status.st_mode, wanted, addition.path)
    return True


def _resolve(root: str | None, target: str) -> tuple[str, int | None]:
    """Resolve `target` inside of `root`, as the runtime does when it mounts there.

    Returns:
        The absolute path without symbolic links, and the mode of its file; None if it is missing.
    """
    pending = target.split("/")[::-1]
    path: list[str] = []
    mode: int | None = stat.S_IFDIR
    links = 0
    while pending:
        component = pending.pop()
        if component in ("", "."):
            continue
        if component == "..":
            # Only from a link. The parent of the root is the root.
            del path[-1:]
            mode = stat.S_IFDIR
            continue
        here = "/" + "/".join([*path, component])
        status = _lstat(root, here)
        mode = None if status is None else status.st_mode
        if mode is not None and stat.S_ISLNK(mode):
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), f"{root}{target}")
            destination = os.readlink(f"{root}{here}")
            if destination.startswith("/"):
                path.clear()
            pending += destination.split("/")[::-1]
            mode = stat.S_IFDIR
            continue
        if mode is not None and not stat.S_ISDIR(mode) and any(pending):
            raise _conflict(here, mode, "a directory", target)
        path.append(component)
    return "/" + "/".join(path), mode


def _lstat(root: str | None, path: str) -> os.stat_result | None:
    if root is None:
        return None
    try:
        return os.lstat(root + path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parents(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[: i + 1]) for i in range(len(parts))]


def _conflict(path: str, mode: int, wanted: str, target: str) -> PackageError:
    where = path if path == target else f"{path} (for the mount {target})"
    return PackageError(
        f"in the root directory {where} is {_kind(mode)}, where the manifest needs {wanted}",
        hint="remove it, or change the manifest",
    )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    return next((text for test, text in kinds if test(mode)), "a socket or FIFO")
