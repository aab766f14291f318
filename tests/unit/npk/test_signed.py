"""Signed packages with one forged detail per test.

The forged packages are signed with the valid key, else the check of the signature would refuse them
before the tested check.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from northstar import npk
from northstar.model import VerificationError
from northstar.npk import hash_tree, signature
from northstar.npk import key as keys
from northstar.npk.signature import Hashes
from tests.unit.npk import parts

SEED = bytes(range(32))
SALT = bytes(range(32))
BLOCKS = 3


def tree(image: bytes, blocks: int, salt: bytes = SALT) -> tuple[bytes, bytes]:
    """Return the hash tree over an image, and its root digest."""
    out = bytearray(hash_tree.tree_size(blocks))

    def sink(offset: int, block: bytes) -> None:
        out[offset : offset + len(block)] = block

    root = hash_tree.build([image], blocks, salt, sink)
    return bytes(out), root


def package(
    path: Path,
    *,
    blocks: int = BLOCKS,
    covered: int | None = None,
    tail: bytes = b"",
    salt: bytes = SALT,
    meta: str | None = None,
    manifest: str | None = None,
    offset: int | None = None,
) -> Path:
    """Write a package that is valid except for the arguments."""
    image = b"hsqs" + bytes(range(256)) * 16 * blocks
    image = image[: blocks * 4096]
    levels, root = tree(image, blocks)
    superblock = hash_tree.Superblock(bytes(16), blocks if covered is None else covered, salt)
    hashes = Hashes(
        manifest=manifest or hashlib.sha256(parts.MANIFEST).hexdigest(),
        meta=meta or hashlib.sha256(parts.COMMENT).hexdigest(),
        verity=root.hex(),
        verity_offset=len(image) if offset is None else offset,
    )
    entries = [
        ("manifest.yaml", parts.MANIFEST),
        ("signature.yaml", signature.render(hashes, SEED)),
        ("fs.img", image + superblock.encode() + levels + tail),
    ]
    path.write_bytes(parts.archive(entries))
    return path


def signed(path: Path) -> npk.Npk:
    return npk.open(path, keys.public_key(SEED))


@pytest.mark.parametrize("blocks", [1, 2, 129])
def test_right(tmp_path: Path, blocks: int):
    with signed(package(tmp_path / "x", blocks=blocks)) as opened:
        npk.verify_image(opened)
        assert opened.superblock is not None
        assert opened.superblock.data_blocks == blocks


def test_comment_is_signed(tmp_path: Path):
    with pytest.raises(VerificationError, match="comment is not the one"):
        signed(package(tmp_path / "x", meta="0" * 64))


def test_manifest_is_signed(tmp_path: Path):
    with pytest.raises(VerificationError, match=r"manifest\.yaml is not the one"):
        signed(package(tmp_path / "x", manifest="0" * 64))


@pytest.mark.parametrize("offset", [0, 4095, 1 << 40, (BLOCKS + 1) * 4096, BLOCKS * 4096 + 1])
def test_offset_is_inside_of_the_image(tmp_path: Path, offset: int):
    with pytest.raises(VerificationError):
        signed(package(tmp_path / "x", offset=offset))


def test_offset_is_a_multiple_of_the_block_size(tmp_path: Path):
    """With a superblock at an odd offset, and the tree directly after it."""
    path = package(tmp_path / "x", offset=BLOCKS * 4096 + 512, tail=bytes(512))
    data = path.read_bytes()
    at = data.index(hash_tree.Superblock(bytes(16), BLOCKS, SALT).encode())
    end = at + 4096 + hash_tree.tree_size(BLOCKS)
    path.write_bytes(data[:at] + bytes(512) + data[at:end] + data[end + 512 :])
    with pytest.raises(VerificationError, match="is not within"):
        signed(path)


@pytest.mark.parametrize("covered", [1, BLOCKS - 1, BLOCKS + 1, 128])
def test_superblock_covers_the_signed_size(tmp_path: Path, covered: int):
    """A smaller number would leave the end of the image unchecked."""
    with pytest.raises(VerificationError, match=f"covers {covered} blocks, the image has {BLOCKS}"):
        signed(package(tmp_path / "x", covered=covered))


@pytest.mark.parametrize("tail", [b"x", bytes(4096)])
def test_no_bytes_after_the_tree(tmp_path: Path, tail: bytes):
    with pytest.raises(VerificationError, match="does not end where"):
        signed(package(tmp_path / "x", tail=tail))


@pytest.mark.parametrize("salt", [b"", SALT[:31], SALT + b"\0", bytes(32)])
def test_salt_is_proved_by_the_root(tmp_path: Path, salt: bytes):
    with pytest.raises(VerificationError, match="root of the verity tree"):
        signed(package(tmp_path / "x", salt=salt))


@pytest.mark.parametrize("blocks", [1, 2, 129])
def test_change_after_opening(tmp_path: Path, blocks: int):
    """Opening reads one block of the image; verify_image reads all of it."""
    path = package(tmp_path / "x", blocks=blocks)
    with signed(path) as opened, path.open("r+b") as file:
        os.pwrite(file.fileno(), b"x", opened.fsimg_offset + blocks * 4096 - 1)
        with pytest.raises(VerificationError, match="install it again"):
            npk.verify_image(opened)
