"""Malicious images are refused: no file is written outside of the target directory."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar import npk
from northstar.linux import removal
from northstar.manifest import loads
from northstar.model import PackageError
from northstar.npk import erofs, squashfs
from tests.unit.linux.test_removal import deepen
from tests.unit.npk import parts

MANIFEST = parts.MANIFEST.decode()
KINDS: list[npk.FileSystem] = ["squashfs", "erofs"]

Patched = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub/aaaaaaaaaaaa").write_text("hostile")
    (root / "bbbbbbbbbbbbbbbb").write_text("hostile")
    (root / "directory").mkdir()
    (root / "directory/zzzz").write_text("hostile")
    (root / "elsewher").symlink_to(tmp_path / "target")
    (root / "symbolic-").symlink_to(tmp_path / "target")
    (root / "zlink").symlink_to(tmp_path / "target")
    (tmp_path / "target").mkdir()
    yield root
    removal.remove(str(root))


def image_of(path: Path) -> bytes:
    with npk.open(path) as package:
        return b"".join(package.read_image())


def package_of(path: Path, image: bytes) -> Path:
    path.write_bytes(parts.archive([("manifest.yaml", parts.MANIFEST), ("fs.img", image)]))
    return path


def pack(root: Path, out: Path, fs: npk.FileSystem) -> Path:
    """Pack without compression, so that names are readable in the image."""
    return Path(npk.pack(loads(MANIFEST), root, out, fs=fs, compression="none").paths[0])


def without_checksum(image: bytes) -> bytes:
    """Clear EROFS_FEATURE_COMPAT_SB_CHKSUM."""
    return image[:1032] + bytes([image[1032] & 0xFE]) + image[1033:]


HOSTILE = {
    "climbing": (b"aaaaaaaaaaaa", b"../../climbx"),
    "absolute": (b"bbbbbbbbbbbbbbbb", b"/tmp/st-absolute"),
    "a link that is a directory too": (b"symbolic-", b"directory"),
    "through a link before": (b"zzzz", b"../e"),
    "through a link": (b"bbbbbbbbbbbbbbbb", b"elsewher/passwdx"),
    "NUL": (b"bbbbbbbbbbbbbbbb", b"bbbbbbb\0bbbbbbbb"),
    "parent": (b"sub", b"..\0"),
    "itself": (b"sub", b".\0\0"),
    "no name": (b"sub", b"\0\0\0"),
}


@pytest.mark.parametrize("fs", KINDS)
@pytest.mark.parametrize("case", HOSTILE)
def test_names_that_lead_outside(root: Path, tmp_path: Path, fs: npk.FileSystem, case: str) -> None:
    name, other = HOSTILE[case]
    image = image_of(pack(root, tmp_path / "good.npk", fs))
    assert image.count(name) >= 1
    image = image.replace(name, other)
    hostile = package_of(tmp_path / "x.npk", without_checksum(image) if fs == "erofs" else image)
    before = sorted(tmp_path.rglob("*"))
    with npk.open(hostile) as package, pytest.raises(PackageError) as caught:
        npk.unpack(package, tmp_path / "new")
    assert sorted(tmp_path.rglob("*")) == before
    assert not os.path.exists("/tmp/st-absolute")
    if fs == "erofs":
        assert "damaged or malicious" in str(caught.value)


def test_an_empty_extraction_is_an_error(root: Path, tmp_path: Path) -> None:
    """fsck.erofs exits with 0 if the superblock's checksum does not match."""
    image = bytearray(image_of(pack(root, tmp_path / "good.npk", "erofs")))
    image[1024 + 64] ^= 0xFF  # the volume's name
    damaged = package_of(tmp_path / "x.npk", bytes(image))
    with npk.open(damaged) as package, pytest.raises(PackageError) as caught:
        npk.unpack(package, tmp_path / "new")
    assert str(caught.value).startswith("fsck.erofs wrote no files: ")
    assert "superblock" in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_partial_extraction_is_an_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin/fsck.erofs"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nmkdir "${1#--extract=}"\ntouch "${1#--extract=}/file"\n')
    tool.chmod(0o755)
    path = pack(root, tmp_path / "good.npk", "erofs")
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    with npk.open(path) as package, pytest.raises(PackageError, match=r"wrote 1 of 8 files"):
        npk.unpack(package, tmp_path / "new")
    assert not (tmp_path / "new").exists()


ODD = ["new\nline", "l -> m", " ", "-rf", "ümlaut", os.fsdecode(b"\xff"), os.fsdecode(b"\xfe")]


@pytest.mark.parametrize("fs", KINDS)
def test_unusual_names_are_accepted(root: Path, tmp_path: Path, fs: npk.FileSystem) -> None:
    for name in ODD:
        (root / "sub" / name).touch()
    (root / "sub/x -> y").symlink_to("y -> z")
    for number in range(500):
        (root / "directory" / f"{number}-{'n' * 40}").mkdir()
    path = pack(root, tmp_path / "x.npk", fs)
    with npk.open(path) as package:
        assert npk.unpack(package, tmp_path / "new") == []
    unpacked = tmp_path / "new/root"
    wanted = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert sorted(str(path.relative_to(unpacked)) for path in unpacked.rglob("*")) == wanted


@pytest.mark.root
@pytest.mark.parametrize("fs", KINDS)
def test_device_nodes_of_an_image(root: Path, tmp_path: Path, fs: npk.FileSystem) -> None:
    """Device nodes that packing adds are extracted; those of disks and memory are not."""
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "mem", 0o666 | stat.S_IFCHR, os.makedev(1, 1))
    os.mknod(root / "sub/disk", 0o666 | stat.S_IFBLK, os.makedev(1, 3))
    os.mkfifo(root / "fifo")
    with npk.open(pack(root, tmp_path / "x.npk", fs)) as package:
        (warning,) = npk.unpack(package, tmp_path / "new")
    assert warning.startswith("left out device nodes that packing never adds: ")
    assert {"mem", "sub/disk"} == set(warning.partition(": ")[2].split(", "))
    unpacked = tmp_path / "new/root"
    assert stat.S_ISCHR((unpacked / "null").stat().st_mode)
    assert stat.S_ISFIFO((unpacked / "fifo").stat().st_mode)
    assert not (unpacked / "mem").exists()
    assert not (unpacked / "sub/disk").exists()


@pytest.mark.parametrize("fs", KINDS)
def test_a_deep_root_is_packed(root: Path, tmp_path: Path, fs: npk.FileSystem) -> None:
    deepen(root, 1200)
    done: list[tuple[int, int]] = []
    path = tmp_path / "x.npk"
    npk.pack(loads(MANIFEST), root, path, fs=fs, progress=lambda *numbers: done.append(numbers))
    if fs == "squashfs":
        with npk.open(path) as package:
            assert "/d" * 1200 + "/file" in npk.list_image(package)
    else:
        (tmp_path / "fs.img").write_bytes(image_of(path))
        paths = [entry.path for entry in erofs.entries(str(tmp_path / "fs.img"))]
        assert b"d/" * 1200 + b"file" in paths


def test_a_root_that_is_too_deep_is_refused(root: Path, tmp_path: Path) -> None:
    """With one sentence, before the tool crashes."""
    deepen(root, 3000)
    for fs in KINDS:
        with pytest.raises(PackageError) as caught:
            npk.pack(loads(MANIFEST), root, tmp_path / "x.npk", fs=fs)
        assert "File name too long" in str(caught.value)
        assert len(str(caught.value)) < 1000
    assert not (tmp_path / "x.npk").exists()


# Names in images


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("image") / "root"
    for number in range(300):
        (root / f"directory-{number}").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to("file")
    command = ["mkfs.erofs", "--force-uid=0", "-T0", str(root.with_name("x")), str(root)]
    subprocess.run(command, check=True, capture_output=True)
    return root.with_name("x").read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place") / "fs.img"


@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_image_is_read_or_refused(
    image: bytes, place: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(image)
    for position, value in changes:
        # Most of an image is empty; directories and inodes are at its beginning.
        data[1024 + position % (len(data) - 1024)] = value
    place.write_bytes(data)
    try:
        found = erofs.entries(str(place))
    except PackageError:
        return
    paths = [entry.path for entry in found]
    assert len(paths) == len(set(paths))
    directories = {entry.path for entry in found if stat.S_ISDIR(entry.mode)}
    for path in paths:
        above, slash, name = path.rpartition(b"/")
        assert name not in (b"", b".", b"..")
        assert b"\0" not in path
        assert not slash or above in directories


@given(size=st.integers(0, 20_000))
def test_any_part_of_an_image_is_read_or_refused(image: bytes, place: Path, size: int) -> None:
    place.write_bytes(image[:size])
    try:
        erofs.entries(str(place))
    except PackageError as refused:
        assert "EROFS image" in str(refused)


def test_a_directory_that_contains_itself_is_refused(image: bytes, place: Path) -> None:
    """`directory-0` becomes the root again, so the paths would never end."""
    place.write_bytes(image)
    start = image.index(b"directory-0directory-1")
    block = start // 4096 * 4096
    for at in range(block, start, 12):
        nid, offset = int.from_bytes(image[at : at + 8], "little"), image[at + 8 : at + 10]
        if int.from_bytes(offset, "little") == start - block:
            break
    root = image[1024 + 14 : 1024 + 16]
    assert nid != int.from_bytes(root, "little")
    place.write_bytes(image[:at] + root + bytes(6) + image[at + 8 :])
    with pytest.raises(PackageError, match="the directory directory-0 has two names"):
        erofs.entries(str(place))


def test_unknown_features_are_refused(image: bytes, place: Path) -> None:
    place.write_bytes(image[:1104] + b"\x80" + image[1105:])
    with pytest.raises(PackageError, match=r"features .* that this release does not support"):
        erofs.entries(str(place))


PATHS = st.lists(st.sampled_from(["a", "b", "..", "."]), min_size=1, max_size=3).map(
    lambda names: "/" + "/".join(names)
)


def line(kind: str, path: str) -> str:
    return f"{kind}rwxr-xr-x root/root                27 2020-01-01 00:00 squashfs-root{path}"


GOOD = [
    [],
    ["Parallel unsquashfs: Using 2 processors", "0 inodes (0 blocks) to write", ""],
    [line("d", ""), line("d", "/a"), line("-", "/a/b"), line("d", "/a/c"), line("d", "/a/c/d")],
    [line("l", "/a -> /tmp"), line("d", "/b"), line("-", "/b/..."), line("-", "/b/ ")],
    [line("-", "/new"), "line", line("l", "/a -> b -> ../.."), line("l", "/a -> c")],
    ["crw-rw-rw- root/root             1,  3 2020-01-01 00:00 squashfs-root/null"],
]
BAD = [
    [line("-", "/../x")],
    [line("d", "/.."), line("-", "/../x")],
    [line("-", "/../../x")],
    [line("-", "//tmp/x")],
    [line("-", "/a/x")],
    [line("l", "/a -> /tmp"), line("-", "/a/x")],
    [line("l", "/a -> /tmp"), line("d", "/a"), line("-", "/a/x")],
    [line("d", "/a"), line("-", "/a/x"), line("l", "/a -> /tmp")],
    [line("l", "/a -> /tmp"), line("-", "/a")],
    [line("l", "/a -> b -> /tmp"), line("d", "/a -> b")],
    [line("d", "/a"), line("d", "/a")],
    [line("d", "/."), line("-", "/./x")],
    [line("-", "/new"), "/../../x"],
    ["drwxr-xr-x root/root 27 2020-01-01 00:00 elsewhere/x"],
]


@pytest.mark.parametrize("lines", GOOD)
def test_valid_listings_of_squashfs(lines: list[str]) -> None:
    squashfs.check_names("\n".join(lines))


@pytest.mark.parametrize("lines", BAD)
def test_invalid_listings_of_squashfs(lines: list[str]) -> None:
    """Listings of an unsquashfs that does not check names."""
    with pytest.raises(PackageError, match="damaged or malicious"):
        squashfs.check_names("\n".join([line("d", ""), *lines]))


@given(st.lists(st.sampled_from("-dl").flatmap(lambda kind: st.builds(line, st.just(kind), PATHS))))
def test_any_listing_is_valid_or_refused(lines: list[str]) -> None:
    """In a valid listing no path has `..`, and each parent is a directory."""
    try:
        squashfs.check_names("\n".join(lines))
    except PackageError:
        return
    paths = {text.partition("squashfs-root")[2]: text[0] for text in lines}
    for path in paths:
        above = os.path.dirname(path)
        assert not {"..", "."} & set(path.split("/"))
        assert above == "/" or paths[above] == "d"


def test_an_unsquashfs_that_does_not_check_names_is_not_used(root: Path, tmp_path: Path) -> None:
    """An image with `..` in a name of its listing is not extracted."""
    tool = tmp_path / "unsquashfs"
    tool.write_text(
        f'#!/bin/sh\necho "{line("d", "")}"\necho "{line("-", "/../../x")}"\n'
        f'case "$*" in *-dest*) touch "{tmp_path}/asked" ;; esac\n'
    )
    tool.chmod(0o755)
    path = pack(root, tmp_path / "x.npk", "squashfs")
    with npk.open(path) as package, pytest.raises(PackageError, match="damaged or malicious"):
        npk.unpack(package, tmp_path / "new", unsquashfs=str(tool))
    assert not (tmp_path / "asked").exists()
