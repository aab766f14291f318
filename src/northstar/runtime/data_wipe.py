"""Removes the persistent data of a container.

Removing a tree takes time, and the runtime may be killed meanwhile. So the tree is first renamed to
a name that no container has. The next start of the runtime removes the rest of such a tree.

The removal may take minutes, and the container chose the contents. So it runs in a thread, parallel
to the boot, and each failure is a warning. A shutdown stops it, and also stops a wipe that a client
waits for: the rest keeps its new name, and the next start continues. (The removal does not wait for
the end of the boot: if the boot fails for lack of disk space, that would never be freed.)
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
from northstar.model import sentence
from northstar.model.pattern import Pattern
from northstar.runtime.threads import Pool

log = logging.getLogger("northstar.runtime")

_DETACHED_PREFIX: Final = ".northstar-wipe:"
"""Prefix of the new name. No container name contains a colon."""
_DETACHED_NAME: Final = Pattern(re.escape(_DETACHED_PREFIX) + r"[0-9a-f]{16}\Z")


def wipe(path: str, stop: threading.Event | None = None) -> None:
    """Remove a container's data: `detach`, then `remove`.

    Raises:
        OSError: as in `detach` and `remove`.
    """
    rest = detach(path, stop)
    if rest is not None:
        remove(rest, stop)


def detach(path: str, stop: threading.Event | None = None) -> str | None:
    """Rename the data to a name that no container has: afterwards the path is free.

    Nothing must use the path meanwhile. A mount point cannot be renamed: it is emptied and stays,
    and so do mounts below it.

    Args:
        path: the directory of the data.
        stop: when set, the removal ends; the next start continues it.

    Returns:
        The new path, for `remove`; None if everything is removed already.

    Raises:
        OSError: ENOENT if the path does not exist; ENOTDIR if it is not a directory; otherwise
            the first failure to remove something.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):  # a symbolic link and its target stay
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    detached = os.path.join(os.path.dirname(path), f"{_DETACHED_PREFIX}{os.urandom(8).hex()}")
    try:
        os.rename(path, detached)
    except OSError as failure:
        if failure.errno == errno.EBUSY:
            removal.empty(path, stop)
            return None
        if failure.errno != errno.EXDEV:  # a directory of a lower layer of overlayfs
            raise
        removal.remove(path, stop)
        return None
    return detached


def remove(detached: str, stop: threading.Event | None = None) -> None:
    """Remove the tree that `detach` renamed.

    Raises:
        OSError: ECANCELED after `stop`; otherwise the first failure to remove something.
    """
    try:
        removal.remove(detached, stop)
    except OSError as failure:
        if failure.errno != errno.ECANCELED:
            raise
        reason = "the runtime ends; its next start removes the rest of the data"
        raise OSError(errno.ECANCELED, reason, detached) from failure


@contextlib.asynccontextmanager
async def finishing(data_dir: str, pool: Pool, stop: threading.Event) -> AsyncIterator[None]:
    """Complete the wipes of a killed runtime, in a thread, while the block runs.

    Args:
        data_dir: the directory of all persistent data.
        pool: provides the thread.
        stop: when set, the removal ends; set at the end of the block at the latest.
    """
    names = await pool.run(unfinished, data_dir)
    work = asyncio.create_task(pool.run(finish, data_dir, names, stop)) if names else None
    try:
        yield
    finally:
        stop.set()
        if work is not None:
            with contextlib.suppress(asyncio.CancelledError):  # the pool ended before the call
                await work


def unfinished(data_dir: str) -> list[str]:
    """Return the names of unfinished wipes. If `data_dir` cannot be read, log a warning."""
    try:
        return sorted(filter(_DETACHED_NAME.match, os.listdir(data_dir)))
    except OSError as failure:
        log.warning("Cannot look for data that was being wiped: %s", sentence(failure))
        return []


def finish(data_dir: str, names: Sequence[str], stop: threading.Event) -> list[str]:
    """Complete unfinished wipes; return the removed names. A failure is a warning.

    Args:
        data_dir: the directory of all persistent data.
        names: from `unfinished`.
        stop: when set, the removal ends.
    """
    removed: list[str] = []
    for name in names:
        try:
            removal.remove(os.path.join(data_dir, name), stop)
        except Exception as failure:
            if stop.is_set():
                log.info("Data that was being wiped is left to the next start")
                break
            # No contents of a container's data may keep other containers from starting.
            is_bug = not isinstance(failure, OSError)
            log.warning(
                "Cannot remove data that was being wiped: %s", sentence(failure), exc_info=is_bug
            )
        else:
            removed.append(name)
    if removed:
        what = "unfinished wipe" if len(removed) == 1 else "unfinished wipes"
        log.warning("Removed what an earlier run left: %d %s", len(removed), what)
    return removed
