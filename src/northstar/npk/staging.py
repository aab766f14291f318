"""Temporary directories for trees that are not ours: of a user's root, or of a hostile image."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def directory(parent: str | None = None) -> Iterator[str]:
    """Yield a new directory, in `parent` or where temporary files go, and remove it at the end.

    Not tempfile.TemporaryDirectory: where something cannot be removed, it changes the mode of the
    very file. That may be a hard link to a user's file, or a symbolic link to anything at all.
    """
    path = tempfile.mkdtemp(prefix=".northstar-" if parent else "northstar-", dir=parent)
    try:
        yield path
    finally:
        remove(path)


def remove(path: str) -> None:
    """Remove a tree, with directories that its owner may not write to; never through a link."""
    for parent, names, _ in os.walk(path):
        for name in names:
            child = os.path.join(parent, name)
            mode = os.lstat(child).st_mode
            if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(child, stat.S_IMODE(mode) | stat.S_IRWXU)
    shutil.rmtree(path)
