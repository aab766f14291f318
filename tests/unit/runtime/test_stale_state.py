"""Stale state of a killed runtime is distinguished from other files by its name."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.cgroups import CgroupHost
from northstar.model import Container
from northstar.runtime import config, directories, notify, stale_state


@pytest.fixture
def configuration(tmp_path: Path) -> Iterator[config.Config]:
    """A configuration whose directories are missing; another program removes them at the end."""
    place = tmp_path / "place"
    lines = [f'{key} = "{place / key}"' for key in directories.OWN]
    yield config.loads("\n".join([*lines, 'cgroup = "northstar-unit"']))
    subprocess.run(["rm", "-rf", place], check=True)


def test_only_names_of_our_naming_scheme_are_removed(configuration: config.Config) -> None:
    with contextlib.ExitStack() as locks:
        directories.own(configuration, locks)
    run, sockets = Path(configuration.run_dir), Path(configuration.socket_dir)
    ours = ["app:1.0.0", ".northstar-install:1.0.0", "null:1.0.0-a.b+c", "null"]
    theirs = ["other", "app", "app:1", ":1.0.0", "app:1.0.0:x"]
    for name in [*ours, *theirs]:
        (run / name).mkdir()
    bound = ["app:1.0.0:a", "app:1.0.0:with:colons", "app:1.0.0::", "app:1:a", "app:1.0.0", "a"]
    for name in bound:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(sockets / name))
    (sockets / "app:1.0.0:file").touch()
    stale_state.remove(configuration, CgroupHost([]), [])
    assert sorted(os.listdir(run)) == sorted(theirs)
    assert sorted(os.listdir(sockets)) == ["a", "app:1.0.0", "app:1.0.0:file", "app:1:a"]


def test_notify_sockets_are_removed(
    configuration: config.Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Also without a socket; other files stay, and so does the directory that contains them."""
    with contextlib.ExitStack() as locks:
        directories.own(configuration, locks)
    top = Path(configuration.run_dir) / "notify"
    for number in range(3):
        bound = notify.bind(configuration.run_dir, Container.parse(f"app:{number}.0.0"))
        bound._socket.close()
    (top / "app:1.0.0" / "socket").unlink()
    (top / "app:2.0.0" / "file").touch()
    (top / "other").mkdir()
    stale_state.remove(configuration, CgroupHost([]), [])
    assert sorted(os.listdir(top)) == ["app:2.0.0", "other"]
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Cannot remove the notify socket of an earlier run: /")
    assert first.endswith(": Directory not empty")
    assert second == ("Removed what an earlier run left: 2 notify sockets (app:0.0.0, app:1.0.0)")


@pytest.mark.parametrize(
    ("entries", "what"),
    [([], "1 directory (notify)"), (["app:1.0.0"], "1 notify socket (app:1.0.0)")],
)
def test_the_notify_directory_is_removed_when_it_is_empty(
    configuration: config.Config,
    caplog: pytest.LogCaptureFixture,
    entries: list[str],
    what: str,
) -> None:
    with contextlib.ExitStack() as locks:
        directories.own(configuration, locks)
    top = Path(configuration.run_dir) / "notify"
    top.mkdir(0o700)
    for name in entries:
        (top / name).mkdir()
    stale_state.remove(configuration, CgroupHost([]), [])
    assert os.listdir(configuration.run_dir) == []
    assert caplog.messages == [f"Removed what an earlier run left: {what}"]


def test_a_notify_directory_of_another_program_is_kept(configuration: config.Config) -> None:
    with contextlib.ExitStack() as locks:
        directories.own(configuration, locks)
    top = Path(configuration.run_dir) / "notify"
    (top / "app:1.0.0").mkdir(parents=True)
    top.chmod(0o755)
    stale_state.remove(configuration, CgroupHost([]), [])
    assert os.listdir(top) == ["app:1.0.0"]


def test_directories_of_any_depth_are_created(configuration: config.Config) -> None:
    deep = configuration.run_dir + "/a" * 1500
    old = os.umask(0o077)
    try:
        directories._make("run_dir", deep)
        directories._make("run_dir", deep)
    finally:
        os.umask(old)
    assert os.stat(deep).st_mode & 0o777 == 0o755
