"""A data wipe frees the path at once, and is completed later even if the runtime is killed."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.linux import removal
from northstar.runtime import data_wipe
from tests.unit.linux.test_removal import deepen


def tree(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text("data")


def finish(data_dir: str, stop: threading.Event | None = None) -> list[str]:
    """Complete the wipes of an earlier run."""
    return data_wipe.finish(data_dir, data_wipe.unfinished(data_dir), stop or threading.Event())


def test_a_wipe_removes_the_whole_tree(tmp_path: Path) -> None:
    tree(tmp_path / "app")
    tree(tmp_path / "other")
    data_wipe.wipe(str(tmp_path / "app"))
    assert os.listdir(tmp_path) == ["other"]
    with pytest.raises(FileNotFoundError):
        data_wipe.wipe(str(tmp_path / "app"))


def test_an_interrupted_wipe_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "app")
    with monkeypatch.context() as patched:
        patched.setattr(removal, "remove", lambda *_: os._exit(1))  # killed after the renaming
        pid = os.fork()
        if pid == 0:
            data_wipe.wipe(str(tmp_path / "app"))
        os.waitpid(pid, 0)
    (detached,) = os.listdir(tmp_path)
    assert detached != "app"
    tree(tmp_path / "app")  # installed again meanwhile
    assert finish(str(tmp_path)) == [detached]
    assert os.listdir(tmp_path) == ["app"]
    assert finish(str(tmp_path)) == []


def test_a_symbolic_link_is_not_followed_and_stays(tmp_path: Path) -> None:
    tree(tmp_path / "elsewhere")
    (tmp_path / "app").symlink_to("elsewhere")
    with pytest.raises(NotADirectoryError, match="/app"):
        data_wipe.wipe(str(tmp_path / "app"))
    assert sorted(os.listdir(tmp_path)) == ["app", "elsewhere"]
    assert (tmp_path / "elsewhere/inner/file").exists()


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data directory; another program removes it if the test fails."""
    path = tmp_path / "data"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


def test_a_tree_of_any_depth_is_removed(data: Path) -> None:
    (data / "app").mkdir()
    deepen(data / "app", 3000)
    data_wipe.wipe(str(data / "app"))
    detached = data / ".northstar-wipe:0123456789abcdef"
    detached.mkdir()
    deepen(detached, 3000)
    assert finish(str(data)) == [detached.name]
    assert os.listdir(data) == []


def test_a_stopped_wipe_is_completed_later(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(data / "app")
    stop = threading.Event()
    stop.set()
    with pytest.raises(OSError, match="the runtime ends; its next start removes") as caught:
        data_wipe.wipe(str(data / "app"), stop)
    assert caught.value.errno == errno.ECANCELED
    (detached,) = os.listdir(data)
    with caplog.at_level(logging.INFO):
        assert finish(str(data), stop) == []
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert finish(str(data), threading.Event()) == [detached]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "bad disk"), RecursionError(), KeyError()])
def test_a_failure_does_not_stop_the_other_removals(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
) -> None:
    """Any exception is a warning, and the other trees are removed."""
    first, second = (f".northstar-wipe:{digit * 16}" for digit in "ab")
    tree(data / first)
    tree(data / second)
    real = removal.remove

    def fail(path: str, stop: threading.Event | None = None) -> None:
        if path.endswith(first):
            raise failure
        real(path, stop)

    monkeypatch.setattr(removal, "remove", fail)
    assert finish(str(data)) == [second]
    assert "Cannot remove data that was being wiped" in caplog.text
    assert os.listdir(data) == [first]


def test_only_unfinished_wipes_are_removed(data: Path) -> None:
    names = [".northstar-wipe:mine", ".northstar-wipe", "northstar-wipe:0123456789abcdef", "app"]
    for name in names:
        tree(data / name)
    assert finish(str(data)) == []
    assert sorted(os.listdir(data)) == sorted(names)


def test_a_missing_data_directory_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finish(str(tmp_path / "missing")) == []
    assert "Cannot look for data that was being wiped" in caplog.text


def test_a_file_in_place_of_the_data_is_refused_and_stays(data: Path) -> None:
    (data / "app").touch()
    with pytest.raises(NotADirectoryError):
        data_wipe.wipe(str(data / "app"))
    assert os.listdir(data) == ["app"]


MOUNTED = """
import os, subprocess, sys
from northstar.runtime import data_wipe
subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
os.makedirs(f"{sys.argv[1]}/a/b")
data_wipe.wipe(sys.argv[1])
print(os.listdir(sys.argv[1]), os.path.ismount(sys.argv[1]))
"""


@pytest.mark.root
def test_data_on_a_separate_file_system_is_emptied(data: Path) -> None:
    (data / "app").mkdir()
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MOUNTED]
    done = subprocess.run([*command, data / "app"], check=True, capture_output=True, text=True)
    assert done.stdout == "[] True\n"
    assert os.listdir(data) == ["app"]
