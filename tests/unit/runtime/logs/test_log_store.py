"""What is kept of ended runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import Container
from northstar.runtime import ring
from northstar.runtime.log_store import LogStore
from northstar.runtime.logring import EndedRun
from tests.unit.runtime.console.harness import run
from tests.unit.runtime.logs.rings import A, runs

B = Container.parse("b:1.0.0")
C = Container.parse("c:1.0.0")
NEWER = Container.parse("a:2.0.0")


def test_the_newest_run_of_a_name_is_kept() -> None:
    async def test() -> None:
        with runs() as made:
            made.run(b"one\n")
            made.run(b"two\n")
            assert await made.texts() == ["two"]
            made.run(b"newer\n", container=NEWER)
            assert await made.texts(NEWER) == ["newer"]
            assert await made.texts() == []

    run(test())


def test_a_run_without_output_replaces_none() -> None:
    async def test() -> None:
        with runs() as made:
            made.run(b"why it failed\n")
            made.run()
            assert await made.texts() == ["why it failed"]

    run(test())


def test_who_ended_first_goes_first() -> None:
    async def test() -> None:
        # Each run takes 24 bytes, its data, and padding.
        with runs(kept=312) as made:
            for container in (A, B, C):
                made.run(b"x" * 75 + b"\n", container=container)
            assert [len(await made.read(one)) for one in (C, B, A)] == [1, 1, 1]
            assert made.store.kept == 312
            made.run(b"again\n", container=B)
            made.run(b"y" * 99 + b"\n", container=B)
            assert [len(await made.read(one)) for one in (C, B, A)] == [1, 1, 0]

    run(test())


def test_of_a_long_run_the_end_is_kept() -> None:
    async def test() -> None:
        with runs(kept=1000) as made:
            made.run(b"short\n", container=B)
            made.run(*(b"%09d\n" % number for number in range(100)))
            found = await made.texts()
            # Each takes 40 bytes.
            assert found == [750, *(f"{number:09d}" for number in range(75, 100))]
            assert made.store.kept == 1000
            assert await made.texts(B) == []

    run(test())


def test_the_end_of_a_long_record_is_kept() -> None:
    async def test() -> None:
        with runs(kept=1000) as made:
            made.run(b"".join(b"%09d\n" % number for number in range(1000)))
            [lost, first, *found] = await made.texts()
            assert found == [f"{number:09d}" for number in range(1000 - len(found), 1000)]
            assert len(found) > 90
            assert isinstance(lost, int)
            assert isinstance(first, str)
            assert lost + len(first) + 1 + 10 * len(found) == 10_000

    run(test())


@pytest.mark.parametrize("kept", [0, 1, 24])
def test_nothing_fits(kept: int) -> None:
    async def test() -> None:
        with runs(kept=kept) as made:
            made.run(b"one\n")
            assert await made.texts() == []
            assert made.store.kept == 0
            made.begin().write(b"two\n")
            assert await made.texts() == ["two"]

    run(test())


def test_a_removed_package_takes_its_log_along() -> None:
    async def test() -> None:
        with runs() as made:
            made.run(b"one\n")
            made.run(b"b\n", container=B)
            made.store.remove(A)
            assert await made.texts() == []
            assert await made.texts(B) == ["b"]
            assert made.store.kept == 32
            made.run(b"counted later\n")
            made.store.remove(A)  # while its output is counted
            assert await made.texts() == []
            assert made.store.kept == 32
            made.store.remove(C)

    run(test())


def test_a_corrupt_end_is_no_failure() -> None:
    """Init's memory was the container's: sizes, sums and the end may be anything."""

    async def test() -> None:
        for data in (b"\xff" * 64, b"\0" * 64, b"\1" * 30, b"\xff" * 3):
            store = LogStore(2**20)
            store.end(EndedRun(A, 1, 5, 0, data))
            [kept] = await store.runs(A)
            assert kept.source.read(0).records == ()
            assert store.written(A) <= len(data)

    run(test())


@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=20),
    st.integers(0, 2000),
)
def test_what_is_kept_is_the_end(data: list[bytes], kept: int) -> None:
    """Whatever the sizes of the records and the limit."""

    async def test() -> None:
        records, offset = b"", 0
        for one in data:
            records += ring._HEADER.pack(len(one), 1, b"\0\0\0", 7, offset)
            records += one + bytes(-len(one) % 8)
            offset += len(one)
        store = LogStore(kept)
        store.end(EndedRun(A, 1, 5, 0, records))
        runs = await store.runs(A)
        assert store.kept <= kept
        assert store.written(A) == offset
        if runs:
            [found] = runs
            batch = found.source.read(0)
            left = b"".join(record.data for record in batch.records)
            assert b"".join(data).endswith(left)
            assert batch.records[0].offset + len(left) == offset
            # At most a header and the padding of two records are not used.
            assert store.kept == len(records) or store.kept > kept - 24 - 16
        else:
            assert kept < 24 + 16

    run(test())
