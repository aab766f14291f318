"""Which file system an image holds, told by its magic number."""

from __future__ import annotations

from typing import Final, Literal

FileSystem = Literal["squashfs", "erofs"]

MAGIC_SPAN: Final = 1028
"""How much of an image's beginning `detect` needs, in bytes."""

_SQUASHFS_MAGIC: Final = b"hsqs"
"""SQUASHFS_MAGIC of linux/magic.h, little endian, at the start."""

_EROFS_MAGIC: Final = b"\xe2\xe1\xf5\xe0"
"""EROFS_SUPER_MAGIC_V1 of linux/magic.h, little endian, after the first 1024 bytes."""


def detect(head: bytes) -> FileSystem | None:
    """Return the kind of the image that starts with `head`, or None for neither."""
    if head.startswith(_SQUASHFS_MAGIC):
        return "squashfs"
    if head[1024:1028] == _EROFS_MAGIC:
        return "erofs"
    return None
