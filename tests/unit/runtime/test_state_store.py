"""The contents of the state file in memory: they change only with the file."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from northstar.core.update_values import Phase, Record
from northstar.manifest import DataPolicy
from northstar.model import Container, Name, Version
from northstar.runtime.directories import LockedDirectory
from northstar.runtime.state_store import StateStore
from northstar.runtime.statefile import StateFile, StoredState, StoredUpdate
from northstar.runtime.threads import Pool

APP = Name("app")


class Directory:
    """A directory that no other program changes."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def restore(self) -> bool:
        return False


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool("test", 2)
    yield made
    made.shutdown()


def record(phase: Phase = Phase.STAGED, new: str = "app:1.1.0") -> Record:
    old = Container.parse("app:1.0.0")
    return Record("fs", old, Container.parse(new), DataPolicy.KEEP, phase)


def run(
    path: Path, pool: Pool, work: Callable[[StateStore], Coroutine[Any, Any, None]]
) -> StateStore:
    store = StateStore(cast("LockedDirectory", Directory(path)), pool)

    async def loaded() -> None:
        await store.load()
        await work(store)

    asyncio.run(loaded())
    return store


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path / ".northstar-state:"))


def test_a_record_and_a_floor_change_in_one_write(tmp_path: Path, pool: Pool) -> None:
    async def work(store: StateStore) -> None:
        await store.reserve(APP)
        assert names(tmp_path) == ["state.json", "state.json.part"]
        await store.write_record(APP, record())
        await store.write_record(APP, record(Phase.COMMIT), Version(1, 1, 0))
        assert StateFile(str(tmp_path)).read() == store.state
        assert store.state.records() == {APP: record(Phase.COMMIT)}
        # A floor never goes down.
        await store.write_record(APP, record(Phase.COMMIT), Version(1, 0, 0))
        assert store.state.floor_versions() == {APP: Version(1, 1, 0)}
        await store.write_record(APP, None)
        assert names(tmp_path) == ["state.json"]

    found = run(tmp_path, pool, work).state
    assert (dict(found.updates), dict(found.floors)) == ({}, {"app": "1.1.0"})


def test_two_reservations(tmp_path: Path, pool: Pool) -> None:
    async def work(store: StateStore) -> None:
        await store.reserve(APP)
        await store.reserve(APP)
        await store.reserve(Name("other"))
        await store.release(APP)
        await store.release(APP)
        assert "state.json.part" in names(tmp_path)
        await store.release(Name("other"))
        assert names(tmp_path) == ["state.json"]

    run(tmp_path, pool, work)


def test_what_a_killed_runtime_has_reserved_is_freed(tmp_path: Path, pool: Pool) -> None:
    StateFile(str(tmp_path)).reserve()

    async def work(_store: StateStore) -> None:
        assert names(tmp_path) == ["state.json"]

    run(tmp_path, pool, work)


def test_of_an_update_in_progress_it_is_kept(tmp_path: Path, pool: Pool) -> None:
    file = StateFile(str(tmp_path))
    file.write(StoredState(updates={"app": StoredUpdate.of(record())}))
    file.reserve()

    async def work(store: StateStore) -> None:
        assert "state.json.part" in names(tmp_path)
        await store.write_record(APP, None)
        assert names(tmp_path) == ["state.json"]

    run(tmp_path, pool, work)


def test_an_unchanged_state_is_not_written(tmp_path: Path, pool: Pool) -> None:
    async def work(store: StateStore) -> None:
        await store.change(lambda state: replace(state, floors={}))

    run(tmp_path, pool, work)
    assert os.listdir(tmp_path) == []


def test_a_failure_changes_nothing(tmp_path: Path, pool: Pool) -> None:
    async def work(store: StateStore) -> None:
        await store.write_record(APP, record())
        before = store.state
        (tmp_path / ".northstar-state:").rename(tmp_path / "moved")
        (tmp_path / ".northstar-state:").touch()
        with pytest.raises(OSError, match="Not a directory"):
            await store.write_record(APP, None)
        assert store.state is before

    run(tmp_path, pool, work)


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path, pool: Pool) -> None:
    async def work(store: StateStore) -> None:
        def adding(number: int) -> Callable[[StoredState], StoredState]:
            return lambda state: replace(
                state, floors={**state.floors, f"app{number}": f"{number}.0.0"}
            )

        await asyncio.gather(*(store.change(adding(number)) for number in range(20)))

    assert len(run(tmp_path, pool, work).state.floors) == 20
    assert len(StateFile(str(tmp_path)).read().floors) == 20


@pytest.mark.parametrize(
    "content",
    [
        {"updates": {"app": {}}},
        {"updates": {"app": {"repository": "fs"}}},
        {"updates": {"a b": "x"}},
        {"floors": {"app": "1.x"}},
        {"floors": {"": "1.0.0"}},
        {"floors": {"app": 1}},
    ],
)
def test_a_part_that_cannot_be_read(
    tmp_path: Path, pool: Pool, content: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The file is bad as a whole."""
    directory = tmp_path / ".northstar-state:"
    directory.mkdir()
    good = {"format": 1, "floors": {"other": "1.0.0"}}
    (directory / "state.json").write_text(json.dumps({**good, **content}))

    async def work(store: StateStore) -> None:
        assert store.lost

    assert run(tmp_path, pool, work).state == StoredState()
    assert names(tmp_path) == ["state.json.bad"]
    assert "Cannot use the state file" in caplog.text


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("app", "old", "app"),
        ("app", "new", "other:1.0.0"),
        ("other", "repository", "fs"),
        ("app", "phase", "done"),
        ("app", "data", "copy"),
        ("app", "tries", "1"),
        ("app", "more", 1),
    ],
)
def test_a_record_that_cannot_be_used(
    tmp_path: Path, pool: Pool, name: str, field: str, value: Any
) -> None:
    stored = {"repository": "fs", "old": "app:1.0.0", "new": "app:1.1.0"}
    stored |= {"data": "keep", "phase": "trial", field: value}
    directory = tmp_path / ".northstar-state:"
    directory.mkdir()
    (directory / "state.json").write_text(json.dumps({"format": 1, "updates": {name: stored}}))

    async def work(store: StateStore) -> None:
        assert store.lost

    run(tmp_path, pool, work)


versions = st.builds(Version, *[st.integers(0, 2**64 - 1)] * 3)


@given(
    versions,
    versions,
    st.sampled_from(Phase),
    st.sampled_from(DataPolicy),
    st.integers(0, 2**31),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_record_is_read_as_it_was_written(
    old: Version,
    new: Version,
    phase: Phase,
    data: DataPolicy,
    tries: int,
    reason: str,
    repository: str,
) -> None:
    import msgspec

    made = Record(repository, Container(APP, old), Container(APP, new), data, phase, tries, reason)
    content = msgspec.json.encode(StoredState(updates={"app": StoredUpdate.of(made)}))
    assert msgspec.json.decode(content, type=StoredState).records() == {APP: made}
