"""A repository removes and replaces only files that belong to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.core import events
from northstar.core.events import Event
from northstar.model import Container, HostError, Name, PackageError, Version
from northstar.runtime.config import RepositoryConfig
from northstar.runtime.package_writer import PackageWriter
from northstar.runtime.repository import FsRepository, is_same, unlink_same
from northstar.runtime.threads import Pool
from tests import vectors

GOOD = (vectors.DIRECTORY / "npk/unsigned.npk").read_bytes()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[FsRepository]:
    pool = Pool("test", 2)
    config = RepositoryConfig(dir=str(tmp_path))
    made = FsRepository("fs", config, None, pool, pool, str(tmp_path))
    yield made
    made.close()
    pool.shutdown()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def accept(_event: Event) -> None:
    pass


async def receive(
    repository: FsRepository, apply: Callable[[Event], None] = accept
) -> PackageWriter:
    """Begin an install; by default `apply` accepts every event."""
    file = await repository.receive()
    return PackageWriter(apply, asyncio.create_task, repository, file)


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(b"foreign")
    os.rename(path.with_suffix(".new"), path)


def test_only_the_open_file_is_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"ours")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert is_same(str(path), descriptor)
        os.link(path, tmp_path / "link")
        assert unlink_same(str(path), descriptor)
        assert not path.exists()
        replace(path)
        assert not unlink_same(str(path), descriptor)
        assert path.read_bytes() == b"foreign"
        path.unlink()
        assert not unlink_same(str(path), descriptor)
    finally:
        os.close(descriptor)


def test_an_aborted_install_keeps_a_file_that_replaced_its_own(
    repository: FsRepository, tmp_path: Path
) -> None:
    async def work() -> None:
        for replaced in (False, True):
            incoming = await receive(repository)
            await incoming.write(b"half a package")
            (temporary,) = files(tmp_path)
            if replaced:
                replace(temporary)
            await incoming.abort()
            await incoming.abort()
            assert files(tmp_path) == ([temporary] if replaced else [])

    run(work())
    (left,) = files(tmp_path)
    assert left.read_bytes() == b"foreign"


def test_a_file_that_appears_during_the_install_is_not_replaced(
    repository: FsRepository, tmp_path: Path
) -> None:
    paths = []

    def late(event: Event) -> None:
        # The core accepts a package after its path is chosen, and before the file is renamed.
        if isinstance(event, events.PackageVerified):
            paths.append(tmp_path / f"{event.container}.npk")
            paths[0].write_bytes(b"foreign")

    async def work() -> None:
        incoming = await receive(repository, late)
        await incoming.write(GOOD)
        with pytest.raises(HostError, match=str(tmp_path)):
            await incoming.commit()
        await incoming.abort()
        assert repository.packages == {}
        assert files(tmp_path) == paths
        # The next install chooses another name.
        incoming = await receive(repository)
        await incoming.write(GOOD)
        package = repository.packages[await incoming.commit()]
        assert package.path not in (None, str(paths[0]))

    run(work())
    assert paths[0].read_bytes() == b"foreign"


def test_an_install_whose_directory_cannot_be_synced_leaves_no_file(
    repository: FsRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its final name then; a file that another program puts there is kept."""
    directory = os.stat(tmp_path)
    fsync = os.fsync
    replacing = False

    def refuse(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), directory):
            if replacing:
                (file,) = files(tmp_path)
                replace(file)
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)

    async def work() -> None:
        nonlocal replacing
        for replacing in (False, True):
            incoming = await receive(repository)
            await incoming.write(GOOD)
            with pytest.raises(HostError, match="Input/output error"):
                await incoming.commit()
            assert repository.packages == {}
            assert len(files(tmp_path)) == int(replacing)

    run(work())


def test_an_invalid_package_is_not_kept(repository: FsRepository, tmp_path: Path) -> None:
    async def work() -> None:
        incoming = await receive(repository)
        await incoming.write(b"junk")
        with pytest.raises(PackageError):
            await incoming.commit()
        await incoming.abort()

    run(work())
    assert files(tmp_path) == []


def test_a_name_that_the_file_system_refuses_is_refused(repository: FsRepository) -> None:
    """With a number appended it would be even longer."""
    container = Container(Name("a" * 300), Version(1, 0, 0))
    with pytest.raises(OSError, match="File name too long"):
        repository.free_path(container)
