"""Opening packages from all kinds of sources, and failures."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from northstar import npk
from northstar.model import PackageError, Version
from northstar.npk import archive
from tests.unit.npk import parts


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write(tmp_path / "app.npk", parts.archive())


@pytest.mark.parametrize("convert", [str, Path, os.fspath])
def test_path(package: Path, convert: Callable[[Path], str | Path]):
    with npk.open(convert(package)) as opened:
        assert str(opened.container) == "app:1.2.3"
        assert not os.get_inheritable(opened.fileno())
        assert opened.version == Version(0, 9, 2)
        assert not opened.signed


def test_file_object_and_descriptor(package: Path):
    with package.open("rb") as file:
        file.seek(17)
        for source in (file, file.fileno()):
            opened = npk.open(source)
            assert opened.fileno() != file.fileno()
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 17
            opened.check_image()
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 17
            opened.close()
        opened = npk.open(file)
    # The package has duplicated the descriptor.
    assert opened.read_entry("manifest.yaml") == parts.MANIFEST
    opened.close()


def test_sealed_memfd():
    fd = os.memfd_create("npk", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        os.write(fd, parts.archive())
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        with npk.open(fd) as opened:
            opened.check_image()
    finally:
        os.close(fd)


def test_file_without_descriptor():
    with pytest.raises(PackageError, match="with a descriptor"):
        npk.open(io.BytesIO(parts.archive()))


def test_closed(package: Path):
    opened = npk.open(package)
    opened.close()
    opened.close()
    assert opened.manifest.name == "app"
    with pytest.raises(ValueError, match="was closed"):
        opened.fileno()
    with pytest.raises(ValueError, match="was closed"):
        opened.check_image()


def test_not_a_regular_file(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null")):
        with pytest.raises(PackageError, match="not a regular file"):
            npk.open(path)
    with pytest.raises(FileNotFoundError) as missing:
        npk.open(tmp_path / "missing")
    assert missing.value.filename == str(tmp_path / "missing")


@pytest.mark.parametrize(
    ("comment", "version"),
    [
        (b"version: 0.9.2\n", "0.9.2"),
        (b"version: 0.9.0", "0.9.0"),
        (b'version: "0.9.9"\n', "0.9.9"),
        (b"version: 1.0.0\n", "1.0.0"),
    ],
)
def test_format_version(tmp_path: Path, comment: bytes, version: str):
    with npk.open(write(tmp_path / "x", parts.archive(comment=comment))) as opened:
        assert str(opened.version) == version


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        (b"", "does not name"),
        (b"version:", "does not name"),
        (b"version: 0.9", "does not name"),
        (b"version: 0.8.9\n", "too old"),
        (b"version: 0.9.2\nversion: 0.9.2\n", "does not name"),
        (b"version: 0.9.2\n" + parts.archive()[-37:], "does not name"),
        (b"\xff\xfe", "does not name"),
    ],
)
def test_invalid_comment(tmp_path: Path, comment: bytes, reason: str):
    path = write(tmp_path / "x.npk", parts.archive(comment=comment))
    with pytest.raises(PackageError, match=rf"x\.npk: .*{reason}"):
        npk.open(path)


def test_manifest_errors_name_file_and_place(tmp_path: Path):
    manifest = parts.MANIFEST.replace(b"1000", b"0", 1)
    entries = [("manifest.yaml", manifest), ("fs.img", parts.IMAGE)]
    path = write(tmp_path / "x.npk", parts.archive(entries))
    with pytest.raises(PackageError, match=r"x\.npk: manifest\.yaml: uid: .*line 4"):
        npk.open(path)


def test_ignored_fields_are_warnings(tmp_path: Path):
    manifest = parts.MANIFEST + b"mounts: {/proc: {type: proc, options: ro}}\n"
    entries = [("manifest.yaml", manifest), ("fs.img", parts.IMAGE)]
    with npk.open(write(tmp_path / "x.npk", parts.archive(entries))) as opened:
        assert len(opened.warnings) == 1
        assert "options" in opened.warnings[0]


def test_unknown_file_system(tmp_path: Path):
    """Such a package can be opened, but not mounted."""
    entries = [("manifest.yaml", parts.MANIFEST), ("fs.img", bytes(4096))]
    with (
        npk.open(write(tmp_path / "x.npk", parts.archive(entries))) as opened,
        pytest.raises(PackageError, match="neither squashfs nor EROFS"),
    ):
        _ = opened.filesystem


def test_empty_image(tmp_path: Path):
    entries = [("manifest.yaml", parts.MANIFEST), ("fs.img", b"")]
    with npk.open(write(tmp_path / "x.npk", parts.archive(entries))) as opened:
        assert opened.fsimg_size == 0
        assert list(opened.read_image()) == []


def test_damaged_image_is_noticed(package: Path):
    data = bytearray(package.read_bytes())
    data[5000] ^= 1
    package.write_bytes(data)
    with npk.open(package) as opened, pytest.raises(PackageError, match="damaged"):
        opened.check_image()


def test_file_that_shrinks(package: Path):
    with npk.open(package) as opened:
        os.truncate(package, 6000)
        with pytest.raises(PackageError, match="became shorter"):
            opened.check_image()


def test_entries_of_signed_packages(tmp_path: Path):
    entries = [
        ("manifest.yaml", parts.MANIFEST),
        ("signature.yaml", b"junk"),
        ("fs.img", parts.IMAGE),
    ]
    with npk.open(write(tmp_path / "x.npk", parts.archive(entries))) as opened:
        # Without a key the signature is not checked.
        assert opened.signed
        assert opened.hashes is None
        assert opened.read_entry("signature.yaml") == b"junk"
        assert [entry.name for entry in opened.entries()] == list(archive.NAMES)


def test_reading_needs_few_system_calls(package: Path, monkeypatch: pytest.MonkeyPatch):
    """A device opens hundreds of packages at boot."""
    calls = []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        calls.append((offset, size))
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    npk.open(package).close()
    assert len(calls) <= 2
    assert sum(size for _, size in calls) <= 4 * 4096
