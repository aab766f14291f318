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
from northstar.runtime import config, directories, stale_state


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


def test_directories_of_any_depth_are_created(configuration: config.Config) -> None:
    deep = configuration.run_dir + "/a" * 1500
    old = os.umask(0o077)
    try:
        directories._make("run_dir", deep)
        directories._make("run_dir", deep)
    finally:
        os.umask(old)
    assert os.stat(deep).st_mode & 0o777 == 0o755
