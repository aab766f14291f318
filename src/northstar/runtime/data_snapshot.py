"""Snapshots of the persistent data of a container, for an update that can be rolled back.

The snapshot of `data_dir/NAME` is `data_dir/.northstar-state:/data/X`, where X is the SHA-256 of
the name. It appears complete, by a rename, and its existence says that it may still be needed: each
function can be interrupted at any moment, also by a power cut, and called again.

| name | contents |
|---|---|
| X | the copy; an empty file instead of a directory: there was no data |
| X.part | an incomplete copy, or one that is not needed any more; the next call removes it |

Nothing uses the data meanwhile: neither version of the container runs. All functions block.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.linux import mountinfo, removal
from northstar.linux.descriptor import Descriptor
from northstar.linux.syncfs import reports_errors, syncfs
from northstar.model import HostError
from northstar.runtime import data_wipe, statefile, tree_copy

_DIRECTORY: Final = "data"
"""Its directory within that of the state file."""
_PARTIAL: Final = ".part"
_COPY: Final = "copy"
_LINKS: Final = "links"
"""Names within X.part while it is copied."""

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN_INODES: Final = 3
"""Of the directories of all snapshots, X.part and the links; without data, of the marker."""
_RESERVE: Final = 20
"""One 20th of the copy, 5 %, must be free besides: directories and extents may need more blocks."""


class Space(NamedTuple):
    """What a snapshot takes at most, and what there is.

    Attributes:
        bytes, inodes: of the copy. It takes less where it can share blocks (FICLONE).
        free_bytes: that a program without privilege may use.
        free_inodes: None if the file system has no limit.
    """

    bytes: int
    inodes: int
    free_bytes: int
    free_inodes: int | None


def path_of(data_dir: str, name: str) -> str:
    """Return the path of the snapshot of a container's data."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return os.path.join(data_dir, statefile.DIRECTORY, _DIRECTORY, digest)


def required(data_dir: str, name: str, stop: threading.Event | None = None) -> Space:
    """Check that a snapshot is possible, without writing anything.

    Args:
        data_dir: the directory of all persistent data.
        name: of the container.
        stop: ends the examination of the data when it is set.

    Raises:
        HostError: the copy and 5 % more do not fit; the data is, or contains, a mount point, or is
            on another file system than its snapshot: it could not be restored by a rename.
        OSError: the data cannot be examined, or is not a directory; ECANCELED after `stop`.
    """
    data = os.path.join(data_dir, name)
    extent = tree_copy.Extent(0, 0)
    if _check_place(data_dir, data):
        with _explained(data):
            extent = tree_copy.measure(data, stop)
    system = os.statvfs(data_dir)
    space = Space(
        bytes=extent.bytes + _OWN_INODES * system.f_frsize,
        inodes=extent.inodes + _OWN_INODES,
        free_bytes=system.f_bavail * system.f_frsize,
        free_inodes=system.f_favail if system.f_files else None,  # btrfs has no limit, and says 0
    )
    hint = f"free some in {data_dir}, or choose `data: keep` in the manifest"
    if (needed := space.bytes + space.bytes // _RESERVE) > space.free_bytes:
        raise HostError(
            f"a snapshot of the data of {name} needs {-(-needed // 1024)} KiB, and "
            f"{space.free_bytes // 1024} KiB are free",
            hint=hint,
        )
    needed = space.inodes + space.inodes // _RESERVE
    if space.free_inodes is not None and needed > space.free_inodes:
        raise HostError(
            f"a snapshot of the data of {name} needs {needed} inodes, and {space.free_inodes} are "
            "free",
            hint=hint,
        )
    return space


def take(data_dir: str, name: str, stop: threading.Event | None = None) -> None:
    """Make the snapshot. What is left of an earlier one is removed before.

    The copy is made durable by one syncfs(2): an fsync(2) for each file would commit the file
    system's journal each time, and the container is down meanwhile. It also writes what other
    programs wrote there, but once. Where it does not report all errors, the files are synced too.

    Args:
        data_dir: the directory of all persistent data.
        name: of the container.
        stop: ends the copy when it is set; the next call removes what there is.

    Raises:
        HostError: as in `required`, except for the space.
        OSError: of the first failure, with the path of the original, such as ENOSPC: what was
            copied is removed again, as far as possible. ECANCELED after `stop`.
    """
    data = os.path.join(data_dir, name)
    exists = _check_place(data_dir, data)
    _make_directories(data_dir)
    discard(data_dir, name, stop)
    snapshot = path_of(data_dir, name)
    try:
        with _explained(data):
            _make(data if exists else None, snapshot, stop)
    except BaseException:
        with contextlib.suppress(OSError):
            discard(data_dir, name, stop)
        raise


def _make(data: str | None, snapshot: str, stop: threading.Event | None) -> None:
    partial = snapshot + _PARTIAL
    os.mkdir(partial, 0o700)
    # It is opened before the copy: syncfs(2) reports the failures since then.
    with _opened(partial) as top:
        if data is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(os.path.join(partial, _COPY), flags, 0o600))
        else:
            links = os.path.join(partial, _LINKS)
            os.mkdir(links, 0o700)
            sync = not reports_errors()
            with _opened(links) as directory:
                tree_copy.copy(data, top.fd, _COPY, links=directory.fd, sync=sync, stop=stop)
            # Before the copy gets its name: later these links would be links to its files.
            removal.remove(links, stop)
        syncfs(top.fd)
        os.rename(os.path.join(partial, _COPY), snapshot)
    _sync(os.path.dirname(snapshot))
    os.rmdir(partial)


def restore(data_dir: str, name: str) -> str | None:
    """Replace the data by its snapshot. Without a snapshot this was completed earlier.

    Returns:
        The path of the replaced data, which has a name of `northstar.runtime.data_wipe`: its
        `remove` removes it, or the next start of the runtime. None if there was no data.

    Raises:
        HostError: the data is, or contains, a mount point; nothing was changed.
        OSError: a rename or a sync failed. The snapshot is there, or has become the data.
    """
    snapshot, data = path_of(data_dir, name), os.path.join(data_dir, name)
    parent = os.path.dirname(snapshot)
    replaced = None
    try:
        mode = os.lstat(snapshot).st_mode
    except FileNotFoundError:
        if not os.path.isdir(parent):
            return None
    else:
        if _check_place(data_dir, data):
            replaced = data_wipe.detach(data)
            # A file system without a journal may keep renames in any order.
            _sync(data_dir)
        if stat.S_ISDIR(mode):
            os.rename(snapshot, data)
        else:
            os.unlink(snapshot)
    # Also if the rename was made by an earlier call: its sync may have failed.
    _sync(data_dir)
    _sync(parent)
    _remove(snapshot + _PARTIAL)
    _sync(parent)
    return replaced


def discard(data_dir: str, name: str, stop: threading.Event | None = None) -> None:
    """Remove the snapshot, complete or not; without one, do nothing.

    It loses its name first, so that no part of a snapshot is ever restored.

    Args:
        data_dir: the directory of all persistent data.
        name: of the container.
        stop: ends the removal when it is set; the next call continues it.

    Raises:
        OSError: it could not be renamed, synced or removed; ECANCELED after `stop`.
    """
    snapshot = path_of(data_dir, name)
    parent, partial = os.path.dirname(snapshot), snapshot + _PARTIAL
    _remove(partial, stop)
    try:
        os.rename(snapshot, partial)
    except FileNotFoundError:
        if not os.path.isdir(parent):
            return
    else:
        _sync(parent)
        _remove(partial, stop)
    # The record of the update is removed next. On btrfs that is durable without this removal, and a
    # power cut would leave a copy that nothing removes.
    _sync(parent)


def _check_place(data_dir: str, data: str) -> bool:
    """Check that the data can be renamed; return whether there is any.

    Raises:
        HostError: it cannot.
        OSError: it is not a directory.
    """
    try:
        found = os.lstat(data)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), data)
    hint = "choose `data: keep` in the manifest, or store the data in the directory itself"
    state = os.path.join(data_dir, statefile.DIRECTORY)
    places = tuple(map(os.path.realpath, (data, state)))
    # A bind mount of the same file system shows no other device number.
    for mount in mountinfo.read():
        for place in places:
            if mount.mount_point == place or mount.mount_point.startswith(f"{place}/"):
                raise HostError(
                    f"{mount.mount_point} is a mount point, so a snapshot of {data} could not be "
                    "restored by a rename",
                    hint=hint,
                )
    above = state if os.path.isdir(state) else data_dir
    if found.st_dev != os.stat(above).st_dev:  # a subvolume of btrfs is no mount point
        raise HostError(
            f"{data} is on another file system than {above}, so a snapshot of it could not be "
            "restored by a rename",
            hint=hint,
        )
    return True


def _make_directories(data_dir: str) -> None:
    path = data_dir
    for name in (statefile.DIRECTORY, _DIRECTORY):
        above, path = path, os.path.join(path, name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            _sync(above)


def _remove(path: str, stop: threading.Event | None = None) -> None:
    """Remove a tree or a file, if it exists."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            removal.remove(path, stop)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


@contextlib.contextmanager
def _explained(data: str) -> Iterator[None]:
    """Say what ECANCELED means, and name the data where a failure has no path."""
    try:
        yield
    except OSError as failure:
        if failure.errno == errno.ECANCELED:
            reason = "the runtime ends before its data is copied"
            raise OSError(errno.ECANCELED, reason, data) from failure
        if not (isinstance(failure.filename, str) and os.path.isabs(failure.filename)):
            raise OSError(failure.errno, failure.strerror, data) from failure
        raise


def _sync(directory: str) -> None:
    with _opened(directory) as opened:
        try:
            os.fsync(opened.fd)
        except OSError as failure:
            raise OSError(failure.errno, failure.strerror, directory) from None


def _opened(directory: str) -> Descriptor:
    return Descriptor(os.open(directory, _FLAGS))
