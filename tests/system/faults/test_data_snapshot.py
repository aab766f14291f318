"""Snapshots of persistent data that are interrupted, and that meet errors, at every system call."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.linux import removal
from northstar.runtime import data_snapshot, data_wipe
from tests.system.disks import mounted, picture
from tests.system.faults.intercept import Call
from tests.system.faults.worker import Worker, working

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

CHANGES = (
    *("mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2"),
    *("symlinkat", "symlink", "linkat", "link", "mknodat", "mknod", "openat", "ftruncate"),
    *("copy_file_range", "fchown", "fchownat", "fchmod", "fchmodat", "utimensat", "fsync"),
    *("fsetxattr", "lsetxattr", "fremovexattr", "lremovexattr", "ioctl", "syncfs"),
)
"""Calls that change something, or open a file. The moment of a kill between two of these calls
makes no difference."""

READS = (
    *("newfstatat", "statx", "fstat", "lseek", "getdents64", "readlinkat"),
    *("flistxattr", "llistxattr", "fgetxattr", "lgetxattr"),
)
"""Calls that fail in addition."""

NAME = "app"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted("ext4", tmp_path_factory.mktemp("disk")) as point:
        yield point


@pytest.fixture
def data_dir(disk: Path) -> Iterator[Path]:
    path = disk / "data"
    path.mkdir()
    yield path
    removal.remove(str(path))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with working((*CHANGES, *READS)) as worker:
        yield worker


def make(data: Path, content: bytes) -> None:
    """Create one file of each kind that is copied by other calls."""
    inner = data / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(content)
    os.setxattr(inner / "file", "trusted.name", b"value")
    os.truncate(inner / "file", 2**20)
    os.link(inner / "file", data / "link")
    (data / "symlink").symlink_to("/etc/passwd")
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(inner, 1000, 1000)
    for path in (inner, data):
        os.utime(path, ns=(10**18, 10**18 + 1))


def snapshot_of(data_dir: Path) -> Path:
    return Path(data_snapshot.path_of(str(data_dir), NAME))


def kept(data_dir: Path) -> set[str]:
    parent = snapshot_of(data_dir).parent
    return {name.partition(".")[2] for name in os.listdir(parent)} if parent.exists() else set()


def clean(data_dir: Path) -> None:
    for name in os.listdir(data_dir):
        removal.remove(str(data_dir / name))


def finish_wipes(data_dir: Path) -> None:
    """Do what the next start of the runtime does."""
    names = data_wipe.unfinished(str(data_dir))
    for name in names:
        data_wipe.remove(str(data_dir / name))


@pytest.mark.parametrize("exists", [True, False], ids=["data", "no-data"])
def test_killed_before_every_call_of_take(data_dir: Path, worker: Worker, exists: bool) -> None:
    """Its name appears with the complete copy, and the next call removes the rest."""
    where, complete = str(data_dir), 0
    for moment in itertools.count(1):
        clean(data_dir)
        if exists:
            make(data_dir / NAME, b"old")
        before = picture(data_dir / NAME) if exists else None
        result = worker.kill(data_snapshot.take, where, NAME, moment=moment)
        snapshot = snapshot_of(data_dir)
        if os.path.lexists(snapshot):
            complete += 1
            assert (picture(snapshot) if snapshot.is_dir() else None) == before, f"at {moment}"
        assert (picture(data_dir / NAME) if exists else None) == before
        if not result.killed:
            assert result.errno == 0, result.text
            assert kept(data_dir) == {""}
            break
        # What the boot does, and then another update.
        if moment % 2:
            data_snapshot.discard(where, NAME)
            assert kept(data_dir) == set()
        data_snapshot.take(where, NAME)
        assert kept(data_dir) == {""}
        assert (picture(snapshot) if exists else None) == before
    assert moment > (40 if exists else 10)
    assert complete > 1


@pytest.mark.parametrize("exists", [True, False], ids=["data", "no-data"])
def test_killed_before_every_call_of_restore(data_dir: Path, worker: Worker, exists: bool) -> None:
    """The data is the new one as long as the snapshot exists, or missing, then the old one."""
    where, data = str(data_dir), data_dir / NAME
    for moment in itertools.count(1):
        clean(data_dir)
        if exists:
            make(data, b"old")
        old = picture(data) if exists else None
        data_snapshot.take(where, NAME)
        if exists:
            removal.remove(str(data))
        make(data, b"new")
        new = picture(data)
        result = worker.kill(data_snapshot.restore, where, NAME, moment=moment)
        found = picture(data) if data.exists() else None
        if os.path.lexists(snapshot_of(data_dir)):
            assert found in (new, None), f"at {moment}"
        else:
            assert found == old, f"at {moment}"
        data_snapshot.restore(where, NAME)
        assert (picture(data) if data.exists() else None) == old
        assert kept(data_dir) == set()
        finish_wipes(data_dir)
        assert set(os.listdir(data_dir)) - {NAME} == {".northstar-state:"}
        if not result.killed:
            assert result.errno == 0, result.text
            break
    assert moment > 5


def test_killed_before_every_call_of_discard(data_dir: Path, worker: Worker) -> None:
    """A snapshot that is not complete any more has lost its name, and is never restored."""
    where, data = str(data_dir), data_dir / NAME
    for moment in itertools.count(1):
        clean(data_dir)
        make(data, b"old")
        before = picture(data)
        data_snapshot.take(where, NAME)
        result = worker.kill(data_snapshot.discard, where, NAME, moment=moment)
        if os.path.lexists(snapshot_of(data_dir)):
            assert picture(snapshot_of(data_dir)) == before
        if moment % 2:
            data_snapshot.restore(where, NAME)
            assert picture(data) == before
        else:
            data_snapshot.discard(where, NAME)
        assert kept(data_dir) == set()
        if not result.killed:
            assert result.errno == 0, result.text
            break
    assert moment > 5


def nth(number: int, error: int) -> Any:
    """Return a decision that lets the n-th call fail, from 1; its `name` is that of the call."""

    class Once:
        seen = 0
        name = ""

        def __call__(self, call: Call) -> int | None:
            self.seen += 1
            if self.seen != number:
                return None
            self.name = call.name
            return error

    return Once()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_every_call_of_take_fails(data_dir: Path, worker: Worker, error: int) -> None:
    """It succeeds completely, or says what failed and leaves nothing."""
    where, data = str(data_dir), data_dir / NAME
    make(data, b"old")
    before = picture(data)
    failed = set()
    for number in itertools.count(1):
        decide = nth(number, error)
        result = worker.fail(data_snapshot.take, where, NAME, decide=decide)
        what = f"call {number}, {decide.name}: {result.text}"
        assert picture(data) == before, what
        if result.errno:
            assert result.errno == error, what
            # If it is the removal that failed, the next call does it.
            assert kept(data_dir) <= {"part"}, what
            assert "'/" in result.text, what  # a path
            failed.add(decide.name)
        else:
            assert picture(snapshot_of(data_dir)) == before, what
            assert kept(data_dir) <= {"", "part"}, what
        if not decide.name:
            break
        data_snapshot.discard(where, NAME)
        assert kept(data_dir) == set()
    assert {"syncfs", "fsync", "copy_file_range", "lseek", "fchown", "fsetxattr"} <= failed
    assert {"utimensat", "getdents64", "linkat", "ftruncate", "fgetxattr", "ioctl"} <= failed


@pytest.mark.parametrize("function", [data_snapshot.restore, data_snapshot.discard])
def test_every_call_of_the_others_fails(data_dir: Path, worker: Worker, function: Any) -> None:
    where, data = str(data_dir), data_dir / NAME
    for number in itertools.count(1):
        clean(data_dir)
        make(data, b"old")
        old = picture(data)
        data_snapshot.take(where, NAME)
        removal.remove(str(data))
        make(data, b"new")
        decide = nth(number, errno.EIO)
        result = worker.fail(function, where, NAME, decide=decide)
        what = f"call {number}, {decide.name}: {result.text}"
        assert result.errno in (0, errno.EIO), what
        if os.path.lexists(snapshot_of(data_dir)):
            assert result.errno, what
            assert picture(snapshot_of(data_dir)) == old, what
        function(where, NAME)
        assert kept(data_dir) == set(), what
        if function is data_snapshot.restore:
            assert picture(data) == old, what
        if not decide.name:
            break
    assert number > 5
