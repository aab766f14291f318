"""The table of a dm-verity target, and which images need a sealed copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.devices import verified_device
from northstar.linux import memfd
from northstar.model import PackageError
from northstar.npk import Hashes, Superblock

ROOT = "ab" * 32


def parameters(blocks: int, salt: bytes = b"\1\2") -> tuple[int, list[str]]:
    hashes = Hashes("0" * 64, "0" * 64, ROOT, blocks * 4096)
    # The number of blocks in the superblock is not signed, so it must not be used.
    target = verified_device.table(hashes, Superblock(bytes(16), 2**40, salt), "7:3")
    assert (target.start, target.kind) == (0, "verity")
    return target.length, target.text.split(" ")


def test_the_table_in_the_kernels_order() -> None:
    # version, data and hash device, their block sizes, data blocks, first hash block, ...
    length, words = parameters(300)
    assert length == 300 * 8
    assert words == ["1", "7:3", "7:3", "4096", "4096", "300", "301", "sha256", ROOT, "0102"]


@given(st.integers(1, 2**40), st.binary(max_size=256))
def test_any_table_has_ten_words_and_no_options(blocks: int, salt: bytes) -> None:
    length, words = parameters(blocks, salt)
    assert length == blocks * 8
    assert words[5:7] == [str(blocks), str(blocks + 1)]
    assert words[9:] == [salt.hex() if salt else "-"]


def test_only_a_fully_sealed_file_is_used_without_a_copy(tmp_path: Path) -> None:
    fd = memfd.create("northstar-test")
    try:
        assert not verified_device._is_sealed(fd)
        memfd.seal(fd, memfd.F_SEAL_SHRINK | memfd.F_SEAL_GROW)
        assert not verified_device._is_sealed(fd)
        memfd.seal(fd)
        assert verified_device._is_sealed(fd)
    finally:
        os.close(fd)
    with (tmp_path / "file").open("wb") as file:
        assert not verified_device._is_sealed(file.fileno())


def test_a_copy_is_sealed_and_contains_only_the_image(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 4096 + b"b" * 8192 + b"c" * 100)
    with path.open("rb") as file:
        copy = verified_device._sealed_copy(file.fileno(), 4096, 8192)
        try:
            assert os.pread(copy, 20000, 0) == b"b" * 8192
            assert verified_device._is_sealed(copy)
            with pytest.raises(PermissionError):
                os.pwrite(copy, b"x", 0)
        finally:
            os.close(copy)
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(PackageError, match="became shorter"):
            verified_device._sealed_copy(file.fileno(), 4096, 20000)
        assert len(os.listdir("/proc/self/fd")) == descriptors
