"""Hash trees, compared with veritysetup, the reference implementation."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import PackageError, VerificationError
from northstar.npk import hash_tree

VERITYSETUP = "/usr/sbin/veritysetup"
# One level more from 2, 129 and 16385 blocks on.
BLOCKS = [1, 2, 127, 128, 129, 16384, 16385]
SALT = bytes(range(32))


def image(path: Path, blocks: int) -> Path:
    """Write an image whose blocks all differ."""
    with path.open("wb") as file:
        for number in range(blocks):
            file.write(number.to_bytes(8, "little") * 512)
    return path


def append_tree(path: Path, blocks: int, salt: bytes = SALT) -> str:
    """Append superblock and tree to the image, and return the root digest in hex."""
    size = blocks * hash_tree.BLOCK_SIZE
    with path.open("r+b") as file:
        fd = file.fileno()
        tree = size + hash_tree.SUPERBLOCK_SIZE
        root = hash_tree.build(
            hash_tree.read_chunks(fd, 0, size),
            blocks,
            salt,
            lambda offset, block: os.pwrite(fd, block, tree + offset),
        )
        os.pwrite(fd, hash_tree.Superblock(bytes(16), blocks, salt).encode(), size)
    return root.hex()


def veritysetup(action: str, path: Path, blocks: int, *arguments: str) -> str:
    command = [VERITYSETUP, action, f"--hash-offset={blocks * hash_tree.BLOCK_SIZE}"]
    done = subprocess.run(
        [*command, str(path), str(path), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.mark.parametrize("blocks", BLOCKS)
def test_veritysetup_accepts_a_built_tree(tmp_path: Path, blocks: int):
    path = image(tmp_path / "image", blocks)
    root = append_tree(path, blocks)
    size = blocks * hash_tree.BLOCK_SIZE + hash_tree.SUPERBLOCK_SIZE + hash_tree.tree_size(blocks)
    assert path.stat().st_size == size
    veritysetup("verify", path, blocks, root)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_built_tree_equals_that_of_veritysetup(tmp_path: Path, blocks: int):
    """Superblock and tree are equal, except for the random UUID."""
    theirs, ours = image(tmp_path / "theirs", blocks), image(tmp_path / "ours", blocks)
    size = blocks * hash_tree.BLOCK_SIZE
    output = veritysetup("format", theirs, blocks, f"--data-blocks={blocks}")
    with theirs.open("rb") as file:
        file.seek(size)
        superblock = hash_tree.Superblock.decode(file.read(hash_tree.SUPERBLOCK_SIZE))
        tree = file.read()
    assert superblock.data_blocks == blocks
    root = re.search(r"Root hash:\s+([0-9a-f]{64})", output)
    assert root is not None
    assert append_tree(ours, blocks, superblock.salt) == root[1]
    with ours.open("rb") as file:
        file.seek(size + hash_tree.SUPERBLOCK_SIZE)
        assert file.read() == tree


def test_veritysetup_refuses_a_changed_tree(tmp_path: Path):
    """The tests above can fail."""
    path = image(tmp_path / "image", 129)
    root = append_tree(path, 129)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(subprocess.CalledProcessError):
        veritysetup("verify", path, 129, root)


@given(st.integers(1, 1 << 40))
def test_levels_are_contiguous(blocks: int):
    shape = hash_tree.levels(blocks)
    # From the root, which is a single block, down: no gaps.
    position = 0
    for level in reversed(shape):
        assert level.offset == position
        position += level.blocks * hash_tree.BLOCK_SIZE
    assert position == hash_tree.tree_size(blocks)
    assert not shape or shape[-1].blocks == 1
    below = blocks
    for level in shape:
        assert level.blocks == -(-below // 128)
        below = level.blocks


@given(st.binary(min_size=16, max_size=16), st.integers(1, 2**52 - 1), st.binary(max_size=256))
def test_superblock_round_trip(uuid: bytes, blocks: int, salt: bytes):
    superblock = hash_tree.Superblock(uuid, blocks, salt)
    block = superblock.encode()
    assert len(block) == hash_tree.SUPERBLOCK_SIZE
    assert hash_tree.Superblock.decode(block) == superblock


@given(st.binary(max_size=600))
def test_superblock_of_any_bytes(block: bytes):
    with pytest.raises(VerificationError):
        hash_tree.Superblock.decode(block)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, 0, "no verity superblock"),
        (8, 2, "unsupported parameters"),
        (12, 0, "unsupported parameters"),
        (32, 0, "unsupported parameters"),
        (38, ord("x"), "unsupported parameters"),
        (65, 2, "unsupported parameters"),
        (69, 8, "unsupported parameters"),
        (72, 0, "covers 0 blocks"),
        (79, 1, "covers"),
        (81, 2, "salt"),
    ],
)
def test_superblock_with_a_changed_byte(offset: int, value: int, reason: str):
    block = bytearray(hash_tree.Superblock(bytes(16), 6, SALT).encode())
    block[offset] = value
    with pytest.raises(VerificationError, match=reason):
        hash_tree.Superblock.decode(bytes(block))


def test_short_file_is_noticed(tmp_path: Path):
    path = image(tmp_path / "image", 3)
    with path.open("rb") as file, pytest.raises(PackageError, match="became shorter"):
        list(hash_tree.read_chunks(file.fileno(), 0, 4 * hash_tree.BLOCK_SIZE))


def test_one_thread_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a machine with one processor no thread is started."""
    roots = []
    for processors in (1, 2):
        monkeypatch.setattr(os, "cpu_count", lambda count=processors: count)
        path = image(tmp_path / f"image{processors}", 1000)
        roots.append(append_tree(path, 1000))
    assert roots[0] == roots[1]


def test_a_failing_sink_ends_the_threads(tmp_path: Path):
    path = image(tmp_path / "image", 4096)

    def sink(_offset: int, _block: bytes) -> None:
        raise VerificationError("no")

    with path.open("rb") as file, pytest.raises(VerificationError, match="no"):
        hash_tree.build(hash_tree.read_chunks(file.fileno(), 0, 4096 * 4096), 4096, SALT, sink)
