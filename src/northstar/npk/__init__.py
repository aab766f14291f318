"""Packages: reading, verifying, packing and unpacking.

The runtime reads packages, which are untrusted files; that needs no other program. `pack`, `unpack`
and `list_image` run the image tools. Their modules are imported on first use, so that a runtime
does not load them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from northstar.npk.filesystem import FileSystem
from northstar.npk.hash_tree import Superblock
from northstar.npk.key import generate, load_public_key, load_secret_key
from northstar.npk.package import FORMAT_VERSION, Npk, open, verify_image  # noqa: A004 - as gzip
from northstar.npk.signature import Hashes

if TYPE_CHECKING:
    from northstar.npk.packing import Packed, pack, pack_into
    from northstar.npk.unpacking import list_image, unpack

__all__ = [
    "FORMAT_VERSION",
    "FileSystem",
    "Hashes",
    "Npk",
    "Packed",
    "Superblock",
    "generate",
    "list_image",
    "load_public_key",
    "load_secret_key",
    "open",
    "pack",
    "pack_into",
    "unpack",
    "verify_image",
]


def __getattr__(name: str) -> Any:
    if name in ("Packed", "pack", "pack_into"):
        from northstar.npk import packing

        return getattr(packing, name)
    if name in ("list_image", "unpack"):
        from northstar.npk import unpacking

        return getattr(unpacking, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
