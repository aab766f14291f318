"""The files of polled statistics stay open, and only while they are polled."""

import asyncio
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from northstar.cgroups import Cgroup, CgroupHost, Hierarchy
from northstar.runtime import statistics_cache
from northstar.runtime.statistics_cache import StatisticsCache


def cgroups(directory: Path, count: int) -> list[Cgroup]:
    """Cgroups of containers in a directory that imitates a hierarchy of version 1."""
    host = CgroupHost([Hierarchy(str(directory), 1, frozenset({"pids"}))])
    made = [Cgroup.create(host, "top", f"app{number}", None) for number in range(count)]
    for cgroup in made:
        path = directory / cgroup.path
        (path / "pids.max").write_text("max\n")
        (path / "pids.current").write_text("0\n")
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def run(test: Callable[[StatisticsCache], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(StatisticsCache())

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_one_read_keeps_no_file_open_and_polling_returns_every_change(tmp_path: Path) -> None:
    (cgroup,) = cgroups(tmp_path, 1)

    async def test(polled: StatisticsCache) -> None:
        before = descriptors()
        for number in range(5):
            (tmp_path / cgroup.path / "pids.current").write_text(f"{number}\n")
            assert polled.read(cgroup) == {"pids": {"current": number, "max": None}}
            assert descriptors() == before + (2 if number else 0)
        polled.forget(cgroup)
        polled.forget(cgroup)
        assert descriptors() == before
        assert polled.read(cgroup) == {"pids": {"current": 4, "max": None}}

    run(test)


def test_files_are_closed_after_the_last_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_cache, "IDLE_TIMEOUT", 0.05)
    first, second = cgroups(tmp_path, 2)

    async def test(polled: StatisticsCache) -> None:
        before = descriptors()
        for cgroup in (first, first, second, second):
            polled.read(cgroup)
        assert descriptors() == before + 4

        def one_is_polled() -> bool:
            polled.read(second)
            return descriptors() == before + 2

        await until(one_is_polled)
        await until(lambda: descriptors() == before)
        # The cache is empty: this is a first read again.
        polled.read(first)
        assert descriptors() == before

    run(test)


def test_new_files_are_found_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_cache, "REOPEN_INTERVAL", 0.05)
    (cgroup,) = cgroups(tmp_path, 1)
    file = tmp_path / cgroup.path / "pids.current"
    file.unlink()

    async def test(polled: StatisticsCache) -> None:
        for _ in range(2):
            assert polled.read(cgroup)["pids"]["current"] == 0
        file.write_text("7\n")
        await until(lambda: polled.read(cgroup)["pids"]["current"] == 7)
        polled.forget(cgroup)

    run(test)


def test_descriptors_remain_for_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (320, 320))
    made = cgroups(tmp_path, 3)

    async def test(polled: StatisticsCache) -> None:
        before = descriptors()
        for _ in range(2):
            for cgroup in made[:2]:
                polled.read(cgroup)
        assert descriptors() == before + 4
        for _ in range(2):
            for cgroup in made:
                assert polled.read(cgroup) == {"pids": {"current": 0, "max": None}}
        assert descriptors() == before
        for cgroup in made:
            polled.forget(cgroup)

    run(test)
