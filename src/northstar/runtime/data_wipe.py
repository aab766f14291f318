"""Persistent data that goes with its container: all at once, and for good.

Removing a tree takes a while, in which the runtime may be killed. So the tree first gets a name
that no container has: from then on it is nobody's data, and the next start removes what is left.

That removal may take minutes, and the data is what a container has made of it. So it is done in a
thread, beside the boot, and no failure of it is more than a warning. A shutdown stops it, as it
stops a wipe that a client waits for: what is left then has its new name, and the start after it
goes on. (Not after the boot: a device whose boot fails for want of disk space would never get any.)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Final

from northstar.linux import removal
from northstar.runtime.threads import Pool

log = logging.getLogger("northstar.runtime")

_DOOMED: Final = ".northstar-wipe:"
"""How the new name begins. The colon makes it no container's name."""
_IS_DOOMED: Final = re.compile(re.escape(_DOOMED) + r"[0-9a-f]{16}\Z")


def wipe(path: str, stop: threading.Event | None = None) -> None:
    """Remove a container's data: `detach`, and then `remove` what is left.

    Raises:
        OSError: as those.
    """
    rest = detach(path, stop)
    if rest is not None:
        remove(rest, stop)


def detach(path: str, stop: threading.Event | None = None) -> str | None:
    """Give the data a name that no container has: afterwards the path is free.

    Nothing may use the path meanwhile. A mount point cannot be renamed: it is emptied and stays,
    with what else is mounted below it.

    Args:
        path: of the data, a directory.
        stop: ends the removal when it is set; the next start goes on.

    Returns:
        The new path, for `remove`; None if everything is removed already.

    Raises:
        OSError: ENOENT if there is none; ENOTDIR if it is no directory; or the first reason why
            something stays.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):  # a symbolic link, and what it leads to, stay
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    doomed = os.path.join(os.path.dirname(path), f"{_DOOMED}{os.urandom(8).hex()}")
    try:
        os.rename(path, doomed)
    except OSError as failure:
        if failure.errno == errno.EBUSY:
            removal.empty(path, stop)
            return None
        if failure.errno != errno.EXDEV:  # a directory of a lower layer of overlayfs
            raise
        removal.remove(path, stop)
        return None
    return doomed


def remove(doomed: str, stop: threading.Event | None = None) -> None:
    """Remove what `detach` has renamed.

    Raises:
        OSError: ECANCELED after `stop`; or the first reason why something stays.
    """
    try:
        removal.remove(doomed, stop)
    except OSError as failure:
        if failure.errno != errno.ECANCELED:
            raise
        reason = "the runtime ends; its next start removes the rest of the data"
        raise OSError(errno.ECANCELED, reason, doomed) from failure


@contextlib.asynccontextmanager
async def finishing(data_dir: str, pool: Pool, stop: threading.Event) -> AsyncIterator[None]:
    """Remove what a killed runtime was wiping, in a thread, while the block runs.

    Args:
        data_dir: where all persistent data is.
        pool: has the thread.
        stop: ends the removal when it is set, at the latest at the end of the block.
    """
    names = await pool.run(unfinished, data_dir)
    work = asyncio.create_task(pool.run(finish, data_dir, names, stop)) if names else None
    try:
        yield
    finally:
        stop.set()
        if work is not None:
            with contextlib.suppress(asyncio.CancelledError):  # its pool ended before it began
                await work


def unfinished(data_dir: str) -> list[str]:
    """Return the names of what a killed runtime was wiping. What cannot be read is a warning."""
    try:
        return sorted(filter(_IS_DOOMED.match, os.listdir(data_dir)))
    except OSError as failure:
        log.warning("Cannot look for data that was being wiped: %s", failure)
        return []


def finish(data_dir: str, names: Sequence[str], stop: threading.Event) -> list[str]:
    """Remove what a killed runtime was wiping; return the names. What cannot go is a warning.

    Args:
        data_dir: where all persistent data is.
        names: from `unfinished`.
        stop: ends the removal when it is set.
    """
    removed: list[str] = []
    for name in names:
        try:
            removal.remove(os.path.join(data_dir, name), stop)
        except Exception as failure:
            if stop.is_set():
                log.info("Data that was being wiped is left to the next start")
                break
            # Whatever a container has made of its data: the others must start.
            ours = not isinstance(failure, OSError)
            log.warning("Cannot remove what was being wiped: %s", failure, exc_info=ours)
        else:
            removed.append(name)
    if removed:
        what = "unfinished wipe" if len(removed) == 1 else "unfinished wipes"
        log.warning("Removed what an earlier run left: %d %s", len(removed), what)
    return removed
