"""Persistent data that goes with its container: all at once, and for good.

Removing a tree takes a while, in which the runtime may be killed. So the tree first gets a name
that no container has: from then on it is nobody's data, and the next start removes what is left.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from typing import Final

log = logging.getLogger("northstar.runtime")

_DOOMED: Final = ".northstar-wipe:"
"""How the new name begins. The colon makes it no container's name."""


def wipe(path: str) -> None:
    """Remove a container's data.

    Raises:
        OSError: ENOENT if there is none; it is a link, or something in it cannot be removed.
    """
    rest = detach(path)
    if rest is not None:
        remove(rest)


def detach(path: str) -> str | None:
    """Take the data away from its container: afterwards it is nobody's, and the path is free.

    Nothing may use the path meanwhile.

    Returns:
        The path of what is left to be removed; None if it is all removed already, as is what is in
        a mount point, which cannot be renamed.

    Raises:
        OSError: as `wipe`.
    """
    doomed = os.path.join(os.path.dirname(path), f"{_DOOMED}{os.urandom(8).hex()}")
    if not os.path.islink(path):  # which rmtree refuses, and which stays where it is
        try:
            os.rename(path, doomed)
            return doomed
        except OSError as failure:
            if failure.errno not in (errno.EBUSY, errno.EXDEV):
                raise
    shutil.rmtree(path)
    return None


def remove(path: str) -> None:
    """Remove what `detach` has left.

    Raises:
        OSError: something in it cannot be removed.
    """
    shutil.rmtree(path)


def finish(data_dir: str) -> list[str]:
    """Remove what a killed runtime was wiping; return the names. What cannot go is a warning."""
    removed = []
    for name in os.listdir(data_dir):
        if not name.startswith(_DOOMED):
            continue
        try:
            shutil.rmtree(os.path.join(data_dir, name))
        except OSError as failure:
            log.warning("Cannot remove what was being wiped: %s", failure)
        else:
            removed.append(name)
    return removed
