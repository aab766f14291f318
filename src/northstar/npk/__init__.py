"""Packages: reading, verifying, packing and unpacking.

Reading is what the runtime does with files that it does not trust; it needs no other program.
Packing and unpacking drive the image tools, and are imported by themselves
(`northstar.npk.pack`), so that a runtime does not carry them.
"""

from northstar.npk.filesystem import FileSystem
from northstar.npk.key import load_public_key, load_secret_key
from northstar.npk.package import FORMAT_VERSION, Npk, open, verify_image  # noqa: A004 - as gzip
from northstar.npk.signature import Hashes
from northstar.npk.verity import Superblock

__all__ = [
    "FORMAT_VERSION",
    "FileSystem",
    "Hashes",
    "Npk",
    "Superblock",
    "load_public_key",
    "load_secret_key",
    "open",
    "verify_image",
]
