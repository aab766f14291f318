"""Paths inside a root: walk_in_root resolves them as openat2(2) does."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from northstar.devices import image_mount
from tests.system.launcher.conftest import BUILD

OPENAT2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS = 437, 0x10, 0x2

NAMES = st.sampled_from(["a", "b", "c", "dir", "file", ".", "..", "", "x" * 255, "y" * 256])
PATHS = st.tuples(st.booleans(), st.lists(NAMES, max_size=8)).map(
    lambda p: "/" * p[0] + "/".join(p[1])
)
# Targets of links by their paths; the other names are directories and files.
LINKS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "dir/a", "dir/b", "dir/dir/c"]), PATHS.filter(bool), max_size=6
)
FLAGS = st.sampled_from([os.O_PATH, os.O_RDONLY | os.O_NONBLOCK])


class Found(NamedTuple):
    """The opened file, or the errno."""

    device: int = 0
    inode: int = 0
    errno: int = 0


@pytest.fixture(scope="module")
def walk_in_root(tmp_path_factory: pytest.TempPathFactory) -> ctypes._NamedFuncPointer:
    """The launcher's function, with the undefined behaviour sanitizer."""
    library = tmp_path_factory.mktemp("resolve") / "resolve.so"
    sanitize = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    command = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", *sanitize]
    source = str(BUILD.with_name("resolve.c"))
    subprocess.run([*command, "-o", str(library), source], check=True)
    function = ctypes.CDLL(str(library), use_errno=True)["walk_in_root"]
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
    return function


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    """A directory on a file system with names of up to 255 bytes."""
    with tempfile.TemporaryDirectory(prefix="northstar-test-") as directory:
        yield Path(directory)


def found(descriptor: int) -> Found:
    if descriptor < 0:
        return Found(errno=ctypes.get_errno())
    status = os.fstat(descriptor)
    os.close(descriptor)
    return Found(status.st_dev, status.st_ino)


def kernel(root: int, path: str, flags: int) -> Found:
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(1000):
        answer = found(libc.syscall(ctypes.c_long(OPENAT2), root, path.encode(), how, len(how)))
        if answer.errno != errno.EAGAIN:  # a concurrent rename
            break
    return answer


def check(
    walk_in_root, root: Path | str, path: str, flags: int, not_loop: Collection[int] = ()
) -> Found:
    """Both must find the same file. Instead of ELOOP an error in `not_loop` is accepted, too."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        expected = kernel(directory, path, flags)
        open_before = len(os.listdir("/proc/self/fd"))
        answer = found(walk_in_root(directory, path.encode(), flags))
        assert len(os.listdir("/proc/self/fd")) == open_before
        if not (expected.errno == errno.ELOOP and answer.errno in not_loop):
            assert answer == expected, path
        return answer
    finally:
        os.close(directory)


@settings(max_examples=150)
@given(links=LINKS, path=PATHS, flags=FLAGS)
@example(links={"a": "/b", "b": "a"}, path="a", flags=os.O_PATH)
@example(links={"a": "../../../dir/dir/../file"}, path="/../a", flags=os.O_RDONLY)
@example(links={"dir/a": "/"}, path="dir/a/dir/a/..", flags=os.O_PATH)
@example(links={"a": "dir/"}, path="a/", flags=os.O_PATH)
@example(links={"a": "file/"}, path="a", flags=os.O_PATH)
def test_both_resolve_to_the_same_file(walk_in_root, top, links, path, flags):
    root = top / "root"
    (root / "dir" / "dir" / "dir").mkdir(parents=True)
    try:
        for place in ("file", "dir/file", "dir/dir/file"):
            (root / place).write_text("x")
        for place, target in links.items():
            (root / place).symlink_to(target)
        answer = check(walk_in_root, root, path, flags, {errno.ENAMETOOLONG})
        if path and answer.errno != errno.ENAMETOOLONG:
            directory = os.O_PATH | os.O_DIRECTORY
            is_one = not check(walk_in_root, root, f"{path}/", directory).errno
            assert image_mount.has_directory(str(root), path) == is_one
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize(
    "path",
    [
        "/self",
        "/self/status",
        "/thread-self/comm",
        "/mounts",
        "/net",
        "/self/exe",
        "/self/cwd",
        "/self/root/etc",
        "/self/fd/0",
        "/self/fd/../status",
        "/self/ns/mnt",
    ],
)
@pytest.mark.parametrize("flags", [os.O_PATH, os.O_RDONLY], ids=["path", "read"])
def test_the_magic_links_of_proc_are_refused(walk_in_root, path, flags):
    answer = check(walk_in_root, "/proc", path, flags)
    magic = any(part in path for part in ("exe", "cwd", "root", "fd/0", "ns"))
    assert answer.errno == (errno.ELOOP if magic else 0)


def test_long_paths_and_many_links(walk_in_root, top):
    root = top / "long"
    root.mkdir()
    (root / "link0").write_text("the end")
    for number in range(1, 45):
        (root / f"link{number}").symlink_to(f"link{number - 1}")
    assert check(walk_in_root, root, "link40", os.O_PATH).errno == 0
    assert check(walk_in_root, root, "link41", os.O_PATH).errno == errno.ELOOP
    assert check(walk_in_root, root, "/" * 4094 + ".", os.O_PATH).errno == 0
    assert check(walk_in_root, root, "/" * 4095 + ".", os.O_PATH).errno == errno.ENAMETOOLONG
    assert check(walk_in_root, root, "", os.O_PATH).errno == errno.ENOENT
    shutil.rmtree(root)


RACE = """
import os, sys
while True:
    os.rename("inside/deep", "outside/deep")
    os.rename("outside/deep", "inside/deep")
"""


def test_a_directory_that_is_moved_out_does_not_lead_out(walk_in_root, top):
    """`..` of a directory that was moved out of the root is outside."""
    (top / "outside").mkdir()
    (top / "outside" / "secret").write_text("")
    (top / "inside" / "deep").mkdir(parents=True)
    root = os.open(top / "inside", os.O_PATH | os.O_DIRECTORY)
    inside = os.stat(top / "inside")
    with subprocess.Popen([sys.executable, "-c", RACE], cwd=top) as mover:
        try:
            reached = set()
            for _ in range(3000):
                answer = found(walk_in_root(root, b"deep/..", os.O_PATH))
                reached.add(answer.errno or answer.inode)
                assert found(walk_in_root(root, b"deep/../secret", os.O_PATH)).errno
            assert reached <= {inside.st_ino, errno.ENOENT}
            assert len(reached) == 2, "no rename happened during a walk"
        finally:
            mover.kill()
    os.close(root)
