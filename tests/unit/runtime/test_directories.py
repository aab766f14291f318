"""Directories that other programs remove, move or replace while the runtime uses them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from northstar.linux import flock, statfs
from northstar.model import ConfigurationError
from northstar.runtime import directories
from northstar.runtime.config import Config, loads
from northstar.runtime.directories import LockedDirectory, RuntimeDirectories


def configuration(paths: Mapping[str, Path]) -> Config:
    lines = [f'{key} = "{path}"' for key, path in paths.items()]
    return loads("\n".join(['cgroup = "test"', *lines]))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RuntimeDirectories]:
    config = configuration({key: tmp_path / "deep" / key for key in directories.OWN})
    with contextlib.ExitStack() as stack:
        yield directories.own(config, stack)


def is_locked(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return not flock.try_lock(descriptor)
    finally:
        os.close(descriptor)


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("key", directories.OWN)
def test_a_removed_directory_is_created_and_locked_again(own: RuntimeDirectories, key: str) -> None:
    held: LockedDirectory = getattr(own, key)
    before = mode(held.path)
    held.restore()  # an existing directory is unchanged
    for directory in own:
        os.rmdir(directory.path)
    os.rmdir(os.path.dirname(held.path))
    held.refuse_if_moved()
    held.restore()
    assert mode(held.path) == before == {"data_dir": 0o700}.get(key, 0o755)
    assert is_locked(held.path)
    assert held.is_current()


def test_a_moved_directory_is_an_error_until_it_is_back(
    own: RuntimeDirectories, tmp_path: Path
) -> None:
    held = own.run_dir
    (Path(held.path) / "content").mkdir()
    away = tmp_path / "away (deleted)"  # the suffix that the kernel shows for a removed one
    os.rename(held.path, away)
    with pytest.raises(FileNotFoundError, match=held.path):
        held.refuse_if_moved()
    away = away.rename(tmp_path / "away")
    for act in (held.refuse_if_moved, held.restore):
        with pytest.raises(FileNotFoundError, match=held.path):
            act()
    away.rename(held.path)
    held.restore()
    assert os.listdir(held.path) == ["content"]


def test_a_replacement_is_used_and_locked(own: RuntimeDirectories, tmp_path: Path) -> None:
    held = own.data_dir
    os.rename(held.path, tmp_path / "old")
    os.mkdir(held.path)
    held.restore()
    assert is_locked(held.path)
    assert not is_locked(str(tmp_path / "old"))


def test_a_replacement_may_be_locked_by_another_runtime(own: RuntimeDirectories) -> None:
    held = own.socket_dir
    os.rmdir(held.path)
    os.mkdir(held.path)
    descriptor = os.open(held.path, os.O_RDONLY)
    try:
        assert flock.try_lock(descriptor)
        with pytest.raises(ConfigurationError, match=r"another runtime .*uses the socket_dir"):
            held.restore()
    finally:
        os.close(descriptor)
    held.restore()
    assert is_locked(held.path)


def test_one_directory_for_two_purposes(tmp_path: Path) -> None:
    names = {"run_dir": "x", "socket_dir": "x", "data_dir": "d"}
    config = configuration({key: tmp_path / name for key, name in names.items()})
    with contextlib.ExitStack() as stack:
        own = directories.own(config, stack)
        os.rmdir(tmp_path / "x")
        own.socket_dir.restore()
        own.run_dir.restore()
        assert is_locked(str(tmp_path / "x"))
        assert own.run_dir.is_current()
        assert own.socket_dir.is_current()
    assert not is_locked(str(tmp_path / "x"))


def test_a_kept_lock_outlives_the_release(tmp_path: Path) -> None:
    kept, released = (
        LockedDirectory("dir", str(tmp_path / "a")),
        LockedDirectory("dir", str(tmp_path / "b")),
    )
    before = set(os.listdir("/proc/self/fd"))
    for held in (kept, released):
        os.mkdir(held.path)
        held.lock()
    kept.keep()
    for held in (kept, released):
        held.release()
    try:
        assert is_locked(kept.path)
        assert not is_locked(released.path)
    finally:
        for number in set(os.listdir("/proc/self/fd")) - before:
            with contextlib.suppress(OSError):
                os.close(int(number))


@pytest.mark.parametrize("kind", [0x01021994, 0x858458F6, 0xEF53, None])
def test_a_directory_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int | None
) -> None:
    """A device that does not answer must not block the event loop: in doubt it is on a disk."""

    def file_system(_descriptor: int) -> int:
        if kind is None:
            raise OSError(5, "Input/output error")
        return kind

    monkeypatch.setattr(statfs, "file_system", file_system)
    (path := tmp_path / "dir").mkdir()
    held = LockedDirectory("dir", str(path))
    held.lock()
    try:
        assert held.is_in_memory() == (kind in (0x01021994, 0x858458F6))
        # After a replacement the answer is that of the new directory.
        monkeypatch.setattr(statfs, "file_system", lambda _: 0xEF53)
        path.rename(tmp_path / "moved")
        path.mkdir()
        held.lock()
        assert not held.is_in_memory()
        twin = LockedDirectory("twin", str(path))
        assert twin.share(held)
        assert not twin.is_in_memory()
    finally:
        held.release()
