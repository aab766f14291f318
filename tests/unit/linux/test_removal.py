"""Trees of any shape are removed, and no file outside of them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.linux import removal

MAY_SKIP = ("this file system has no immutable files",)

UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
REMOVE = "import sys; from northstar.linux import removal; removal.remove(sys.argv[1])"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory, which rm(1) removes if the test fails."""
    path = tmp_path / "tree"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


def deepen(path: Path, levels: int, name: str = "d") -> None:
    """Create nested directories, the innermost with a file."""
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


@pytest.mark.parametrize("levels", [0, 1, 999, 1000, 1001, 3000, 5000])
def test_any_depth(tree: Path, levels: int) -> None:
    deepen(tree, levels)
    removal.remove(str(tree))
    assert not tree.exists()


def test_a_path_that_is_longer_than_path_max(tree: Path) -> None:
    deepen(tree, 100, "n" * 255)
    removal.remove(str(tree))
    assert not tree.exists()


def test_a_deep_tree_that_cannot_be_moved(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example between quota projects, where rename(2) fails with EXDEV."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", refuse)
    deepen(tree, 2000)
    removal.remove(str(tree))
    assert not tree.exists()


def test_descriptors_do_not_grow_with_the_tree(tree: Path) -> None:
    deepen(tree, 3000)
    code = (
        "import os, resource, sys; from northstar.linux import removal; "
        "free = os.open('/', os.O_RDONLY); os.close(free); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, free + 4)); "
        "removal.remove(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, tree], check=True)
    assert not tree.exists()


def test_any_width(tree: Path) -> None:
    for number in range(5000):
        (tree / f"file-{number}").touch()
    for number in range(500):
        (tree / f"empty-{number}").mkdir()
        (tree / f"full-{number}").mkdir()
        (tree / f"full-{number}/file").touch()
    removal.remove(str(tree))
    assert not tree.exists()


def test_a_level_that_is_wide_and_deep(tree: Path) -> None:
    """Each level has more subdirectories with content than names are kept at a time."""
    level = tree
    for _ in range(5):
        for number in range(150):
            (level / f"d{number}/inner").mkdir(parents=True)
        level = level / "d0/inner"
    removal.remove(str(tree))
    assert not tree.exists()


SHAPES = st.recursive(
    st.sampled_from(["file", "link", "fifo", "closed"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=30,
)


def make(path: Path, shape: object, outside: Path) -> None:
    match shape:
        case "file":
            path.touch(0)
        case "link":
            path.symlink_to(outside)
        case "fifo":
            os.mkfifo(path)
        case "closed":
            path.mkdir(0)
        case list():
            path.mkdir()
            for number, inner in enumerate(shape):
                make(path / f"\udce4\n{number}", inner, outside)
            path.chmod(0o500 if len(shape) % 2 else 0)


@given(shape=st.lists(SHAPES, max_size=4))
def test_any_shape(tmp_path_factory: pytest.TempPathFactory, shape: list[object]) -> None:
    directory = tmp_path_factory.mktemp("shape")
    outside = directory / "outside"
    outside.mkdir(0o711)
    (outside / "file").touch()
    make(directory / "tree", shape, outside)
    removal.remove(str(directory / "tree"))
    assert os.listdir(directory) == ["outside"]
    assert os.listdir(outside) == ["file"]
    assert outside.stat().st_mode & 0o777 == 0o711


@pytest.mark.root
def test_closed_directories_without_privilege(tree: Path) -> None:
    for mode in (0, 0o111, 0o444, 0o555):
        inner = tree / f"{mode:o}/inner"
        inner.mkdir(parents=True)
        (inner / "file").touch(0)
        inner.chmod(mode)
        inner.parent.chmod(mode)
    tree.chmod(0)
    subprocess.run([*UNPRIVILEGED, sys.executable, "-c", REMOVE, tree], check=True)
    assert not tree.exists()


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_mount_point_is_not_entered(tree: Path, tmp_path: Path, kind: str) -> None:
    """The mounted directory stays, also if it is of the same file system; all else is removed."""
    (tmp_path / "elsewhere").mkdir()
    (tree / "a/mounted").mkdir(parents=True)
    (tree / "a/file").touch()
    (tree / "b").mkdir()
    source = ["--bind", tmp_path / "elsewhere"] if kind == "bind" else ["-t", "tmpfs", "none"]
    command = ["mount", *map(str, source), str(tree / "a/mounted")]
    script = f"""
import os, subprocess
from northstar.linux import removal
subprocess.run({command!r}, check=True)
open({str(tree / "a/mounted/file")!r}, "w").close()
try:
    removal.remove({str(tree)!r})
except OSError as failure:
    print(failure.errno, failure.filename)
print(os.listdir({str(tree / "a/mounted")!r}))
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{errno.EBUSY} {tree}/a/mounted\n['file']\n"
    assert os.listdir(tree) == ["a"]
    assert os.listdir(tree / "a") == ["mounted"]


@pytest.mark.root
def test_an_immutable_file_stays_and_all_else_is_removed(tree: Path) -> None:
    (tree / "a/b").mkdir(parents=True)
    for name in ("a/b/held", "a/b/other", "a/other", "other"):
        (tree / name).touch()
    held = tree / "a/b/held"
    if subprocess.run(["chattr", "+i", held], check=False, capture_output=True).returncode:
        pytest.skip(MAY_SKIP[0])
    try:
        with pytest.raises(PermissionError) as caught:
            removal.remove(str(tree))
    finally:
        subprocess.run(["chattr", "-i", held], check=True)
    assert caught.value.filename == str(held)
    assert sorted(path.name for path in tree.rglob("*")) == ["a", "b", "held"]
    removal.remove(str(tree))
    assert not tree.exists()


def test_too_many_failures_end_the_removal(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, **_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)

    for number in range(1100):
        (tree / str(number)).touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        with pytest.raises(PermissionError):
            removal.remove(str(tree))


def test_empty_keeps_the_directory(tree: Path) -> None:
    deepen(tree, 3)
    removal.empty(str(tree))
    assert os.listdir(tree) == []


def test_a_path_that_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").touch()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(NotADirectoryError) as caught:
            removal.remove(str(tmp_path / name))
        assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        removal.remove(str(tmp_path / "missing"))
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "file", "link"]
    assert (tmp_path / "elsewhere/file").exists()


def test_the_stop_event_ends_the_removal(tree: Path) -> None:
    deepen(tree, 3)
    stop = threading.Event()
    stop.set()
    with pytest.raises(OSError, match="stopped") as caught:
        removal.remove(str(tree), stop)
    assert caught.value.errno == errno.ECANCELED
    assert (tree / "d/d/d/file").exists()
