"""Terminals for exec'ed processes, each in a devpts of its own."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final, NamedTuple

from northstar.linux import mount
from northstar.runtime.null_device import detached_mount

NAME: Final = "pts"
"""Name of the mount point in the run directory, which exists only during `open_terminal`."""

_lock: Final = threading.Lock()
"""The mount point has one name, so that the next runtime removes one that a crash has left."""


class Pty(NamedTuple):
    """Both ends of a pseudoterminal; the caller owns them."""

    master: int
    slave: int


def open_terminal(run_dir: str, uid: int, gid: int, rows: int, columns: int) -> Pty:
    """Open a terminal that is the only one of its file system. Blocks for mount(2).

    A descriptor of the host's /dev/pts would give a container a way to its other terminals. This
    one has no path: ttyname(3) of the container fails.

    Args:
        run_dir: the file system is mounted below it temporarily.
        uid: of the slave's owner.
        gid: of its group.
        rows: of its size, 0..65535.
        columns: of its size, 0..65535.

    Raises:
        OSError: includes the path; ENOSPC if the kernel's limit of terminals is reached.
    """
    from northstar.linux import pty  # every boot loads this module, for NAME

    directory = os.path.join(run_dir, NAME)
    with _lock:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        try:
            flags = mount.MS_NOSUID | mount.MS_NOEXEC
            options = "newinstance,ptmxmode=0600,mode=0620,max=1"
            with detached_mount(directory, "devpts", flags, options):
                master = pty.open_master(os.path.join(directory, "ptmx"))
                try:
                    slave = pty.open_slave(master)
                except BaseException:
                    os.close(master)
                    raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory)
    try:
        os.fchown(slave, uid, gid)
        pty.set_size(master, rows, columns)
    except BaseException:
        os.close(slave)
        os.close(master)
        raise
    return Pty(master, slave)
