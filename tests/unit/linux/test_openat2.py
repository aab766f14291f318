"""Restricted lookups: nothing below a root leads outside of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from northstar.linux import openat2
from tests.unit.linux.refusals import refused

pytestmark = pytest.mark.skipif(not openat2.supported(), reason="openat2(2) is of Linux 5.6")
IN_ROOT = openat2.RESOLVE_IN_ROOT | openat2.RESOLVE_NO_MAGICLINKS


def content(root: Path, path: str) -> str:
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = openat2.openat2(directory, path, os.O_RDONLY, IN_ROOT)
    finally:
        os.close(directory)
    assert not os.get_inheritable(fd)
    with open(fd) as file:
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    inside.mkdir()
    (tmp_path / "file").write_text("outside")
    (inside / "file").write_text("inside")
    return inside


def test_paths_stay_below_the_root(root: Path) -> None:
    (root / "up").symlink_to("../../../file")
    (root / "absolute").symlink_to("/file")
    for path in ("/file", "file", "../file", "/../../file", "up", "absolute"):
        assert content(root, path) == "inside"


def test_a_path_that_exists_only_outside(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "file")
    with refused(errno.ENOENT) as caught:
        content(root, "link")
    assert caught.value.filename == "link"


def test_links_of_proc_are_refused(root: Path) -> None:
    with refused(errno.ELOOP):
        openat2.openat2(-1, f"/proc/self/root{root}/file", os.O_PATH, IN_ROOT & ~0x10)


def test_a_name_with_a_nul_never_reaches_the_kernel() -> None:
    with pytest.raises(ValueError, match="NUL"):
        openat2.openat2(-1, "/a\0b", os.O_PATH, 0)
