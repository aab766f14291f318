"""Data that is wiped is nobody's at once, and is gone in the end, whoever is killed meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from northstar.runtime import wiping


def tree(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text("data")


def test_all_of_it_goes(tmp_path: Path) -> None:
    tree(tmp_path / "app")
    tree(tmp_path / "other")
    wiping.wipe(str(tmp_path / "app"))
    assert os.listdir(tmp_path) == ["other"]
    with pytest.raises(FileNotFoundError):
        wiping.wipe(str(tmp_path / "app"))


def test_what_was_interrupted_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "app")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda _path: os._exit(1))  # killed after the renaming
        pid = os.fork()
        if pid == 0:
            wiping.wipe(str(tmp_path / "app"))
        os.waitpid(pid, 0)
    (doomed,) = os.listdir(tmp_path)
    assert doomed != "app"
    tree(tmp_path / "app")  # installed again meanwhile
    assert wiping.finish(str(tmp_path)) == [doomed]
    assert os.listdir(tmp_path) == ["app"]
    assert wiping.finish(str(tmp_path)) == []


def test_a_link_is_not_followed_and_stays(tmp_path: Path) -> None:
    tree(tmp_path / "elsewhere")
    (tmp_path / "app").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        wiping.wipe(str(tmp_path / "app"))
    assert sorted(os.listdir(tmp_path)) == ["app", "elsewhere"]
    assert (tmp_path / "elsewhere/inner/file").exists()
