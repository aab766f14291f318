"""Detects the file system of an image by its magic number."""

from __future__ import annotations

from typing import Final, Literal

FileSystem = Literal["squashfs", "erofs"]

MAGIC_SPAN: Final = 1028
"""Size of the beginning of an image that `detect` needs, in bytes."""

_SQUASHFS_MAGIC: Final = b"hsqs"
"""SQUASHFS_MAGIC of linux/magic.h, little endian, at offset 0."""

_EROFS_MAGIC: Final = b"\xe2\xe1\xf5\xe0"
"""EROFS_SUPER_MAGIC_V1 of linux/magic.h, little endian, at offset 1024."""


def detect(head: bytes) -> FileSystem | None:
    """Return the file system of the image that starts with `head`; None if it is unknown."""
    if head.startswith(_SQUASHFS_MAGIC):
        return "squashfs"
    if head[1024:1028] == _EROFS_MAGIC:
        return "erofs"
    return None
