"""Snapshots of persistent data on real file systems: exact, complete, and restored."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from northstar.linux import fileclone, removal
from northstar.model import HostError
from northstar.runtime import data_snapshot, data_wipe, tree_copy
from tests.system.disks import data_ranges, fill, mounted, picture
from tests.unit.linux.refusals import refused
from tests.unit.linux.test_removal import deepen

NO_BTRFS = "this kernel has no btrfs"
MAY_SKIP = (NO_BTRFS,)

pytestmark = pytest.mark.root

NAME = "app"


@pytest.fixture(scope="module", params=["ext4", "btrfs", "tmpfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file system for the tests of this file."""
    if request.param not in Path("/proc/filesystems").read_text().split():
        pytest.skip(NO_BTRFS)
    with mounted(request.param, tmp_path_factory.mktemp("disk")) as point:
        yield point


@pytest.fixture
def data_dir(disk: Path) -> Iterator[Path]:
    """An empty directory of persistent data on the file system."""
    path = disk / "data"
    path.mkdir(0o700)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def data(data_dir: Path) -> Path:
    path = data_dir / NAME
    path.mkdir(0o700)
    return path


def taken(data_dir: Path) -> Path:
    data_snapshot.take(str(data_dir), NAME)
    path = Path(data_snapshot.path_of(str(data_dir), NAME))
    assert os.listdir(path.parent) == [path.name]
    return path


def others(data_dir: Path) -> set[str]:
    return set(os.listdir(data_dir)) - {".northstar-state:", NAME}


ACL = b"".join(
    (
        struct.pack("<I", 2),
        *(
            struct.pack("<HHI", *entry)
            for entry in (
                (0x01, 7, 2**32 - 1),  # the owner
                (0x02, 6, 4711),  # a user
                (0x04, 5, 2**32 - 1),  # the group
                (0x10, 7, 2**32 - 1),  # the mask
                (0x20, 0, 2**32 - 1),  # all others
            )
        ),
    )
)
"""acl(5), in the form of system.posix_acl_access."""

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""struct vfs_cap_data: cap_net_bind_service, effective."""


def furnish(top: Path) -> None:
    """Create every kind of file, with attributes of every kind."""
    plain = top / "plain"
    plain.write_bytes(os.urandom(100_000))
    os.chown(plain, 1000, 2000)
    plain.chmod(0o640)
    (top / "empty").touch(0)
    setuid = top / "setuid"
    setuid.write_bytes(b"program")
    os.chown(setuid, 4711, 4712)
    setuid.chmod(0o6755)
    capable = top / "capable"
    capable.write_bytes(b"program")
    os.chown(capable, 4711, 4712)
    os.setxattr(capable, "security.capability", CAPABILITY)
    sparse = top / "sparse"
    with sparse.open("wb") as file:
        file.truncate(64 * 2**20)
        for offset in (2**20, 7 * 2**20 + 5):
            os.pwrite(file.fileno(), b"island", offset)
    os.truncate(top / "empty", 5 * 2**20)  # only a hole
    (top / "relative").symlink_to("plain")
    (top / "outside").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("x" * 3000)
    os.chown(top / "outside", 1, 2, follow_symlinks=False)
    os.setxattr(top / "outside", "trusted.name", b"of the link", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o622)
    os.chown(top / "fifo", 5, 6)
    os.setxattr(top / "fifo", "trusted.name", b"of the FIFO")
    os.mknod(top / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(top / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    sticky = top / "sticky"
    sticky.mkdir()
    os.chown(sticky, 1000, 1000)
    sticky.chmod(0o3777)
    (sticky / "inner").write_bytes(b"x")
    closed = top / "closed"
    closed.mkdir()
    (closed / "file").write_bytes(b"secret")
    os.setxattr(closed, "trusted.name", b"\0\xff")
    os.setxattr(closed, "system.posix_acl_access", ACL)
    os.setxattr(closed, "system.posix_acl_default", ACL)
    (closed / "made later").write_bytes(b"gets the default ACL")
    (closed / "directory").mkdir()
    os.removexattr(closed / "made later", "system.posix_acl_access")
    for names in (("plain", "link"), ("plain", "closed/link"), ("outside", "sticky/symlink")):
        os.link(top / names[0], top / names[1], follow_symlinks=False)
    os.link(top / "fifo", top / "closed/fifo")
    os.link(top / "zero", top / "closed/zero")
    hostile = os.fsencode(top) + b"/\xff\n\x01 -rf*"
    os.mkdir(hostile)
    with open(hostile + b"/" + b"\xc3" * 255, "wb") as file:
        file.write(b"hostile")
    closed.chmod(0)
    for number, path in enumerate(sorted(top.rglob("*"))):
        time = 10**18 + number * 1_000_000_007
        os.utime(path, ns=(time, time + 1), follow_symlinks=False)
    os.utime(top, ns=(123456789012345678, 987654321098765432))
    top.chmod(0o2710)


def test_every_kind_of_file(data_dir: Path, data: Path) -> None:
    furnish(data)
    before = picture(data)
    with socket.socket(socket.AF_UNIX) as left_out:
        kept = data.stat()
        fd = os.open(data, os.O_RDONLY)
        left_out.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
        os.utime(data, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    snapshot = taken(data_dir)
    assert picture(snapshot) == before
    assert picture(data) == before
    assert not os.path.lexists(snapshot / "socket")
    assert data_ranges(snapshot / "sparse") == data_ranges(data / "sparse")
    assert (snapshot / "sparse").stat().st_blocks <= (data / "sparse").stat().st_blocks
    assert (snapshot / "empty").stat().st_blocks == 0
    assert len(before["/plain"]["links"]) == 3
    assert (snapshot / "plain").stat().st_nlink == 3

    (data / "plain").write_bytes(b"changed by the new version")
    (data / "added").mkdir()
    replaced = data_snapshot.restore(str(data_dir), NAME)
    assert replaced is not None
    assert picture(data) == before
    assert others(data_dir) == {os.path.basename(replaced)}
    assert os.listdir(snapshot.parent) == []
    # Only the sign of the name makes it a tree that the next start of the runtime removes.
    assert data_wipe.unfinished(str(data_dir)) == [os.path.basename(replaced)]
    data_wipe.remove(replaced)
    assert data_snapshot.restore(str(data_dir), NAME) is None
    assert picture(data) == before


def test_an_inherited_acl_is_not_copied_into_the_snapshot(data_dir: Path, data: Path) -> None:
    """Entries of the directory of snapshots get its default ACL."""
    (data / "directory").mkdir()
    (data / "directory/file").write_bytes(b"x")
    before = picture(data)
    taken(data_dir)
    above = data_dir / ".northstar-state:/data"
    os.setxattr(above, "system.posix_acl_default", ACL)
    snapshot = taken(data_dir)
    assert picture(snapshot) == before


def test_no_data(data_dir: Path) -> None:
    space = data_snapshot.required(str(data_dir), NAME)
    assert space.bytes < 64 * 1024
    snapshot = taken(data_dir)
    assert snapshot.is_file()
    (data_dir / NAME).mkdir()
    (data_dir / NAME / "new").touch()
    assert data_snapshot.restore(str(data_dir), NAME) is not None
    assert not (data_dir / NAME).exists()
    assert os.listdir(snapshot.parent) == []
    taken(data_dir)
    assert data_snapshot.restore(str(data_dir), NAME) is None
    assert not (data_dir / NAME).exists()
    # An empty directory is something else.
    (data_dir / NAME).mkdir(0o751)
    assert taken(data_dir).is_dir()
    os.rmdir(data_dir / NAME)
    assert data_snapshot.restore(str(data_dir), NAME) is None
    assert (data_dir / NAME).stat().st_mode & 0o7777 == 0o751


def test_a_discarded_snapshot_is_never_restored(data_dir: Path, data: Path) -> None:
    data_snapshot.discard(str(data_dir), NAME)
    (data / "file").write_bytes(b"old")
    snapshot = taken(data_dir)
    (data / "file").write_bytes(b"new")
    data_snapshot.discard(str(data_dir), NAME)
    assert os.listdir(snapshot.parent) == []
    data_snapshot.discard(str(data_dir), NAME)
    assert data_snapshot.restore(str(data_dir), NAME) is None
    assert (data / "file").read_bytes() == b"new"


def test_a_new_snapshot_replaces_what_is_left(data_dir: Path, data: Path) -> None:
    (data / "file").write_bytes(b"1")
    snapshot = taken(data_dir)
    partial = snapshot.with_name(f"{snapshot.name}.part")
    (partial / "copy/directory").mkdir(parents=True)
    (data / "file").write_bytes(b"2")
    assert (taken(data_dir) / "file").read_bytes() == b"2"


def test_names_do_not_meet(data_dir: Path, data: Path) -> None:
    (data / "file").touch()
    for name in ("app", "app.part", "other"):
        data_snapshot.take(str(data_dir), name)
    assert len(os.listdir(data_dir / ".northstar-state:/data")) == 3
    assert (data_dir / ".northstar-state:").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("levels", [1, 1001, 3000])
def test_any_depth(data_dir: Path, data: Path, levels: int) -> None:
    deepen(data, levels, "n" * (255 if levels == 1001 else 1))
    snapshot = taken(data_dir)
    for top in (data, snapshot):
        assert depth(top) == levels
    data_snapshot.discard(str(data_dir), NAME)
    removal.remove(str(data))


def depth(top: Path) -> int:
    """Return the number of nested directories."""
    levels, fd = 0, os.open(top, os.O_RDONLY)
    while names := [name for name in os.listdir(fd) if name != "file"]:
        below = os.open(names[0], os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, levels = below, levels + 1
    assert os.listdir(fd) == ["file"]
    os.close(fd)
    return levels


LIMITED = """
import os, resource, sys
from northstar.runtime import data_snapshot, tree_copy
free = os.open("/", os.O_RDONLY)
os.close(free)
limit = free + tree_copy.DESCRIPTORS
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
data_snapshot.required(sys.argv[1], "app")
data_snapshot.take(sys.argv[1], "app")
assert os.open("/", os.O_RDONLY) == free
"""


def test_descriptors_do_not_grow_with_the_tree(data_dir: Path, data: Path) -> None:
    level = data
    for number in range(60):
        (level / "file").write_bytes(b"x")
        (level / "fifo").touch()
        os.link(level / "file", data / f"link-{number}")
        level = level / "d"
        level.mkdir()
    subprocess.run([sys.executable, "-c", LIMITED, data_dir], check=True)
    assert picture(Path(data_snapshot.path_of(str(data_dir), NAME))) == picture(data)


def test_stopped(data_dir: Path, data: Path) -> None:
    (data / "file").touch()
    stop = threading.Event()
    stop.set()
    for function in (data_snapshot.required, data_snapshot.take):
        with pytest.raises(OSError, match="the runtime ends before its data is copied") as caught:
            function(str(data_dir), NAME, stop)
        assert caught.value.errno == errno.ECANCELED
        assert caught.value.filename == str(data)
    snapshot = data_snapshot.path_of(str(data_dir), NAME)
    assert not os.path.lexists(snapshot)
    taken(data_dir)


def test_a_large_file_is_stopped_between_two_parts(
    data_dir: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fileclone, "FICLONE", 0x40049400)  # no ioctl of any file system
    (data / "file").write_bytes(bytes(3 * tree_copy._CHUNK))
    stop = threading.Event()
    copied = os.copy_file_range

    def once(*arguments: int) -> int:
        stop.set()
        return copied(*arguments)

    monkeypatch.setattr(os, "copy_file_range", once)
    with refused(errno.ECANCELED):
        data_snapshot.take(str(data_dir), NAME, stop)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.ENOSYS])
def test_without_the_calls_of_newer_file_systems(
    data_dir: Path, data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Bytes are read and written, the holes stay, and each file is synced."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    synced = []

    def sync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    furnish(data)
    before = picture(data)
    monkeypatch.setattr(fileclone, "ficlone", refuse)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(data_snapshot, "reports_errors", lambda: False)
    snapshot = taken(data_dir)
    assert picture(snapshot) == before
    # The kernel may round a hole to a page.
    assert (snapshot / "sparse").stat().st_blocks <= (data / "sparse").stat().st_blocks
    files = {os.path.basename(path) for path in synced if ".part/copy/" in path}
    assert {"setuid", "sparse", "empty", "inner"} <= files


def test_blocks_are_shared_where_the_file_system_can(data_dir: Path, data: Path) -> None:
    can = os.statvfs(data_dir).f_files == 0  # only btrfs of the three
    (data / "file").write_bytes(os.urandom(8 * 2**20))
    os.sync()
    with (data / "file").open("rb") as source, (data / "clone").open("wb") as target:
        if not can:
            with refused(errno.EOPNOTSUPP):
                fileclone.ficlone(target.fileno(), source.fileno())
            return
        fileclone.ficlone(target.fileno(), source.fileno())
    (data / "clone").unlink()
    snapshot = taken(data_dir)
    shown = subprocess.run(
        ["filefrag", "-v", str(snapshot / "file")], check=True, capture_output=True, text=True
    ).stdout
    assert "shared" in shown
    (data / "file").write_bytes(b"changed")
    assert (snapshot / "file").stat().st_size == 8 * 2**20


def test_what_a_copy_takes(data_dir: Path, data: Path) -> None:
    (data / "file").write_bytes(os.urandom(2**20))
    os.truncate(data / "file", 2**30)
    for number in range(7):
        os.link(data / "file", data / f"link-{number}")
    (data / "directory").mkdir()
    os.sync()
    space = data_snapshot.required(str(data_dir), NAME)
    assert 2**20 <= space.bytes <= 2**20 + 128 * 1024
    assert space.inodes == 3 + 3
    before = os.statvfs(data_dir)
    taken(data_dir)
    os.sync()
    after = os.statvfs(data_dir)
    assert before.f_bfree - after.f_bfree <= space.bytes // after.f_frsize
    if space.free_inodes is not None and "tmpfs" not in str(data_dir):  # which counts the links
        assert before.f_ffree - after.f_ffree <= space.inodes


def test_a_full_disk(data_dir: Path, data: Path) -> None:
    (data / "a").mkdir()
    (data / "a/small").write_bytes(b"x" * 5000)
    (data / "large").write_bytes(os.urandom(4 * 2**20))
    (data / "z").symlink_to("y" * 1000)
    before = picture(data)
    full = fill(data_dir)
    os.truncate(full, full.stat().st_size - 2**20)
    os.sync()
    with pytest.raises(HostError) as caught:
        data_snapshot.required(str(data_dir), NAME)
    assert "a snapshot of the data of app needs" in str(caught.value)
    assert "KiB are free; free some in" in str(caught.value)
    if os.statvfs(data_dir).f_files == 0:
        return  # btrfs shares the blocks: the copy succeeds
    free = os.statvfs(data_dir).f_bfree
    with refused(errno.ENOSPC) as failed:
        data_snapshot.take(str(data_dir), NAME)
    assert failed.value.filename == str(data / "large")
    os.sync()
    assert os.listdir(data_dir / ".northstar-state:/data") == []
    assert free - os.statvfs(data_dir).f_bfree <= 2  # the directories of the snapshots
    assert picture(data) == before
    full.unlink()
    assert picture(taken(data_dir)) == before


def test_too_few_inodes(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, options="nr_inodes=40") as data_dir:
        (data_dir / NAME).mkdir()
        for number in range(25):
            (data_dir / NAME / str(number)).touch()
        with pytest.raises(HostError, match=r"needs 30 inodes, and 1\d are free"):
            data_snapshot.required(str(data_dir), NAME)


def test_data_that_cannot_be_renamed(data_dir: Path, data: Path) -> None:
    (data / "inner").mkdir()
    snapshot = Path(data_snapshot.path_of(str(data_dir), NAME))
    for target in (data, data / "inner"):
        for source in (["-t", "tmpfs", "none"], ["--bind", str(data)]):
            subprocess.run(["mount", *source, str(target)], check=True)
            try:
                for function in (data_snapshot.required, data_snapshot.take):
                    with pytest.raises(HostError, match="is a mount point") as caught:
                        function(str(data_dir), NAME)
                    assert str(target) in str(caught.value)
                    assert "data: keep" in str(caught.value)
                assert not snapshot.parent.exists()
            finally:
                subprocess.run(["umount", str(target)], check=True)
    # Nothing is changed, if it becomes one later.
    (data / "file").write_bytes(b"1")
    taken(data_dir)
    subprocess.run(["mount", "--bind", str(data / "inner"), str(data)], check=True)
    try:
        with pytest.raises(HostError, match="is a mount point"):
            data_snapshot.restore(str(data_dir), NAME)
    finally:
        subprocess.run(["umount", str(data)], check=True)
    assert snapshot.exists()
    assert (data / "file").exists()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(snapshot.parent.parent)], check=True)
    try:
        with pytest.raises(HostError, match="is a mount point"):
            data_snapshot.required(str(data_dir), NAME)
    finally:
        subprocess.run(["umount", str(snapshot.parent.parent)], check=True)


def test_a_subvolume(data_dir: Path) -> None:
    if os.statvfs(data_dir).f_files:
        return  # only btrfs has them
    for path, kind, words in (
        (data_dir / NAME, HostError, "is on another file system than"),
        (data_dir / NAME / "inner", OSError, "another file system or a subvolume is there"),
    ):
        subprocess.run(["btrfs", "subvolume", "create", path], check=True, capture_output=True)
        with pytest.raises(kind, match=words) as caught:
            data_snapshot.required(str(data_dir), NAME)
        assert str(path) in str(caught.value)
        subprocess.run(["btrfs", "subvolume", "delete", path], check=True, capture_output=True)
        (data_dir / NAME).mkdir(exist_ok=True)


@pytest.mark.parametrize("what", ["file", "link"])
def test_something_else_in_place_of_the_data(data_dir: Path, what: str) -> None:
    if what == "file":
        (data_dir / NAME).touch()
    else:
        (data_dir / NAME).symlink_to("/etc")
    for function in (data_snapshot.required, data_snapshot.take):
        with refused(errno.ENOTDIR) as caught:
            function(str(data_dir), NAME)
        assert caught.value.filename == str(data_dir / NAME)
    assert os.listdir(data_dir) == [NAME]


def test_the_most_links_that_a_file_can_have(data_dir: Path, data: Path) -> None:
    """ext4 has a limit, 65000; one more link, even for a moment, would fail (EMLINK)."""
    (data / "file").write_bytes(b"x")
    limit = os.pathconf(data, "PC_LINK_MAX") if "ext4" in str(data_dir) else 100
    for number in range(1, limit):
        os.link(data / "file", data / str(number))
    if "ext4" in str(data_dir):
        with refused(errno.EMLINK):
            os.link(data / "file", data / "more")
    snapshot = taken(data_dir)
    assert (snapshot / "file").stat().st_nlink == limit
    assert len(os.listdir(snapshot)) == limit


NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
TIMES = st.integers(0, 2**31 * 10**9)
ATTRIBUTES = st.tuples(
    st.integers(0, 0o7777), st.integers(0, 2**31), st.integers(0, 2**31), TIMES, TIMES
)
CONTENTS = st.lists(
    st.tuples(st.integers(0, 100_000), st.binary(min_size=1, max_size=50)), max_size=3
)
FILES = st.one_of(
    st.tuples(st.just("file"), CONTENTS),
    st.tuples(st.just("link"), NAMES),
    st.tuples(st.just("fifo"), st.none()),
    st.tuples(st.just("device"), st.integers(0, 2**20 - 1)),
    st.tuples(st.just("hard"), st.integers(0, 20)),
    st.tuples(
        st.just("xattr"), st.dictionaries(st.text("abc", min_size=1), st.binary(max_size=30))
    ),
)
TREES = st.recursive(
    st.tuples(FILES, ATTRIBUTES),
    lambda inner: st.tuples(
        st.tuples(st.just("directory"), st.dictionaries(NAMES, inner, max_size=5)), ATTRIBUTES
    ),
    max_leaves=20,
)


def grow(path: bytes, tree: object, files: list[bytes]) -> None:
    """Create what a value of TREES describes."""
    assert isinstance(tree, tuple)
    (kind, value), (mode, owner, group, accessed, modified) = tree
    if kind == "hard":
        if files:
            os.link(files[value % len(files)], path, follow_symlinks=False)
        return
    if kind == "directory":
        os.mkdir(path)
        for name, inner in value.items():
            grow(path + b"/" + name, inner, files)
    else:
        files.append(path)
    match kind:
        case "file":
            with open(path, "wb") as file:
                for offset, content in value:
                    file.seek(offset)
                    file.write(content)
        case "link":
            os.symlink(value, path)
        case "fifo":
            os.mkfifo(path)
        case "device":
            os.mknod(path, stat.S_IFCHR, value)
        case "xattr":
            with open(path, "wb") as file:
                for name, content in value.items():
                    os.setxattr(file.fileno(), f"trusted.{name}", content)
    os.chown(path, owner, group, follow_symlinks=False)
    if kind != "link":
        os.chmod(path, mode)
    os.utime(path, ns=(accessed, modified), follow_symlinks=False)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=st.dictionaries(NAMES, TREES, max_size=5), top=ATTRIBUTES)
def test_random_trees_are_copied_exactly(data_dir: Path, tree: object, top: object) -> None:
    data = data_dir / NAME
    grow(os.fsencode(data), (("directory", tree), top), [])
    before = picture(data)
    snapshot = taken(data_dir)
    assert picture(snapshot) == before
    assert picture(data) == before
    replaced = data_snapshot.restore(str(data_dir), NAME)
    assert replaced is not None
    assert picture(data) == before
    removal.remove(replaced)
    removal.remove(str(data))
