"""Temporary directories for foreign trees: of a user's root, or of an untrusted image."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

from northstar.linux import removal


@contextlib.contextmanager
def directory(parent: str | None = None) -> Iterator[str]:
    """Yield a new directory, in `parent` or the default temporary directory; remove it at the end.

    Not tempfile.TemporaryDirectory: it changes the mode of a file that cannot be removed, which may
    be a hard link to a user's file, or a symbolic link to any file. It is also recursive.
    """
    path = tempfile.mkdtemp(prefix=".northstar-" if parent else "northstar-", dir=parent)
    try:
        yield path
    finally:
        removal.remove(path)


def remove(path: str) -> None:
    """Remove a directory and all files in it, without following links, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        removal.remove(path)
