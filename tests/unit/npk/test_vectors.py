"""Valid and damaged packages of an independent implementation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from northstar import npk
from northstar.model import PackageError, VerificationError
from tests import vectors

PACKAGES = vectors.DIRECTORY / "npk"


@pytest.mark.parametrize("vector", vectors.load("npk"))
def test_vector(vector: dict[str, Any]):
    key = npk.load_public_key(PACKAGES / vector["key"]) if vector["key"] else None
    path = PACKAGES / vector["input"]
    descriptors = len(os.listdir("/proc/self/fd"))
    if "error" in vector:
        with pytest.raises(PackageError, match=vector["input"]):
            npk.open(path, key)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        return
    with npk.open(path, key) as package:
        hashes = None if package.hashes is None else package.hashes._asdict()
        assert vector["ok"] == {
            "container": str(package.container),
            "fsimg_offset": package.fsimg_offset,
            "fsimg_size": package.fsimg_size,
            "hashes": hashes,
            "npk_version": str(package.version),
        }
        assert package.filesystem == "squashfs"
        assert package.size == path.stat().st_size
    assert len(os.listdir("/proc/self/fd")) == descriptors


def good_key() -> bytes:
    return npk.load_public_key(PACKAGES / "good.pub")


def signed(path: Path) -> npk.Npk:
    return npk.open(path, good_key())


@pytest.mark.parametrize("name", ["signed-gzip", "signed-lzo", "signed-zstd", "resource-signed"])
def test_whole_image_verifies(name: str):
    with signed(PACKAGES / f"{name}.npk") as package:
        npk.verify_image(package)
        package.check_image()


def test_flipped_bit_in_the_image_is_found():
    # It can be opened: only reading the image detects it.
    with (
        signed(PACKAGES / "fsimg-data-flipped.npk") as package,
        pytest.raises(VerificationError, match="not what was signed"),
    ):
        npk.verify_image(package)


@pytest.mark.parametrize("back", [4096, 8192, 8092])
def test_any_flipped_bit_after_the_image_is_found(tmp_path: Path, back: int):
    """Root block, magic and salt are not signed, but the signed values prove them."""
    data = bytearray((PACKAGES / "signed-gzip.npk").read_bytes())
    data[36864 - back] ^= 1
    path = tmp_path / "flipped.npk"
    path.write_bytes(data)
    with pytest.raises(VerificationError):
        signed(path)


def test_image_cannot_be_verified_without_a_key():
    with npk.open(PACKAGES / "signed-gzip.npk") as package:
        assert package.signed
        with pytest.raises(PackageError, match="without a key"):
            npk.verify_image(package)
