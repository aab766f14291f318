"""Temporary directories for trees that are not ours: of a user's root, or of a hostile image."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

from northstar.linux import removal


@contextlib.contextmanager
def directory(parent: str | None = None) -> Iterator[str]:
    """Yield a new directory, in `parent` or where temporary files go, and remove it at the end.

    Not tempfile.TemporaryDirectory: where something cannot be removed, it changes the mode of the
    very file. That may be a hard link to a user's file, or a symbolic link to anything at all. It
    also calls itself for each level of the tree.
    """
    path = tempfile.mkdtemp(prefix=".northstar-" if parent else "northstar-", dir=parent)
    try:
        yield path
    finally:
        removal.remove(path)
