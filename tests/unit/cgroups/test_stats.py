"""The statistics of an inspect answer have the protocol's members, with any content of files."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.cgroups import stats
from tests import vectors


def fill(directory: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (directory / name).write_text(text)
    return str(directory)


def used(directories: stats.Directories) -> dict[str, Any]:
    statistics = stats.Statistics(directories)
    try:
        return statistics.read()
    finally:
        statistics.close()


def flat(values: dict[str, int]) -> str:
    return "".join(f"{key} {value}\n" for key, value in values.items())


def v1_files(statistics: dict[str, Any]) -> dict[str, str]:
    """Return the files of version 1 with which the recorded statistics result."""
    files = {}
    for member, prefix in (
        ("memory", "memory."),
        ("kmem", "memory.kmem."),
        ("kmem_tcp", "memory.kmem.tcp."),
    ):
        values = statistics["memory"][member]
        files[f"{prefix}failcnt"] = f"{values['fail_cnt']}\n"
        for name in ("limit_in_bytes", "max_usage_in_bytes", "usage_in_bytes"):
            files[f"{prefix}{name}"] = f"{values[name]}\n"
    memory = statistics["memory"]["memory"]
    numa = memory["numa_stat"]
    lines = []
    for key, total in numa.items():
        if key.endswith("_pages"):
            nodes = "".join(
                f" N{number}={pages}" for number, pages in enumerate(numa[f"{key}_per_node"])
            )
            lines.append(f"{key.removesuffix('_pages')}={total}{nodes}\n")
    control = {key: int(value) for key, value in memory["oom_control"].items()}
    files |= {
        "memory.stat": flat(memory["stat"]["raw"]),
        "memory.numa_stat": "".join(lines),
        "memory.oom_control": flat(control),
        "memory.kmem.slabinfo": "",
        "cpu.stat": statistics["cpu"]["stat"],
        "pids.current": "2\n",
        "pids.max": "max\n",
        "cpuacct.usage": "34442000\n",
    }
    for name in ("swappiness", "use_hierarchy", "soft_limit_in_bytes", "move_charge_at_immigrate"):
        files[f"memory.{name}"] = f"{memory[name]}\n"
    return files


def test_version_1_gives_the_recorded_answer(tmp_path: Path) -> None:
    recorded = vectors.statistics(1)
    directory = fill(tmp_path, v1_files(recorded))
    names = ("memory", "cpu", "blkio", "pids", "cpuset", "cpuacct")
    result = used(dict.fromkeys(names, (1, directory)))
    assert result.pop("pids") == {"current": 2, "max": None}
    assert result.pop("cpuacct") == {"usage": 34442000}
    assert result == recorded


def test_version_2_has_the_recorded_shape_and_the_same_meaning(tmp_path: Path) -> None:
    recorded = vectors.statistics(2)
    raw = recorded["memory"]["memory"]["stat"]["raw"]
    io_stat = "".join(
        f"{entry['major']}:{entry['minor']} "
        + " ".join(f"{key}={value}" for key, value in entry.items() if key.endswith(("s", "ios")))
        + "\n"
        for entry in recorded["blkio"]["io_stat"]
    )
    directory = fill(
        tmp_path,
        {
            "memory.stat": flat(raw),
            "memory.current": "565248\n",
            "memory.peak": "786432\n",
            "memory.max": "max\n",
            "memory.low": "4096\n",
            "memory.swap.current": "8192\n",
            "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n",
            "cpu.stat": recorded["cpu"]["stat"],
            "io.stat": io_stat,
            "io.weight": "default 100\n7:0 50\n",
            "io.max": "7:0 rbps=1000 wbps=max riops=max wiops=5\n",
            "pids.current": "2\n",
            "pids.max": "20\n",
        },
    )
    result = used(dict.fromkeys(("memory", "cpu", "blkio", "pids"), (2, directory)))
    assert result.pop("pids") == {"current": 2, "max": 20}
    memory = result["memory"]["memory"]
    assert memory["limit_in_bytes"] == -1
    assert memory["max_usage_in_bytes"] == 786432
    assert memory["usage_in_bytes"] == 565248
    assert memory["soft_limit_in_bytes"] == 4096
    assert memory["fail_cnt"] == 7
    assert memory["oom_control"]["oom_kill"] == 1
    assert memory["stat"]["raw"] == raw
    assert memory["stat"]["rss"] == memory["stat"]["total_rss"] == raw["anon"]
    assert memory["stat"]["cache"] == memory["stat"]["total_cache"] == raw["file"]
    assert memory["stat"]["swap"] == 8192
    assert result["memory"]["kmem"]["usage_in_bytes"] == raw["kernel"]
    assert result["cpu"] == recorded["cpu"]
    blkio = result["blkio"]
    assert blkio["io_stat"] == recorded["blkio"]["io_stat"]
    assert blkio["weight"] == 100
    assert blkio["weight_device"] == [{"major": 7, "minor": 0, "data": 50}]
    assert blkio["throttle"]["read_bps_device"] == [{"major": 7, "minor": 0, "data": 1000}]
    assert blkio["throttle"]["write_bps_device"] == []
    assert blkio["throttle"]["write_iops_device"] == [{"major": 7, "minor": 0, "data": 5}]
    wanted, got = vectors.shape(recorded), vectors.shape(result)
    assert vectors.missing(wanted, got) == []


def test_the_counters_of_io_schedulers() -> None:
    text = (
        "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Async 0\n8:0 Discard 4\n8:0 Total 7\n"
        "8:16 Read 5\n8:16 Total 5\nTotal 12\n"
    )
    assert stats.io_service(text) == (
        [
            {
                "major": 8,
                "minor": 0,
                "read": 1,
                "write": 2,
                "sync": 3,
                "async": 0,
                "discard": 4,
                "total": 7,
            },
            {"major": 8, "minor": 16, "read": 5, "write": 0, "sync": 0, "async": 0, "total": 5},
        ],
        12,
    )
    assert stats.io_service("Total 0\n") == ([], 0)


def test_bfq_files_are_read_where_cfq_files_are_missing(tmp_path: Path) -> None:
    directory = fill(
        tmp_path,
        {
            "blkio.bfq.weight": "100\n",
            "blkio.bfq.io_serviced": "8:0 Read 3\n8:0 Total 3\nTotal 3\n",
            "blkio.throttle.read_bps_device": "8:0 1000\n",
        },
    )
    result = used({"blkio": (1, directory)})["blkio"]
    assert result["weight"] == 100
    assert result["io_serviced_total"] == 3
    assert result["throttle"]["read_bps_device"] == [{"major": 8, "minor": 0, "data": 1000}]


@pytest.mark.parametrize("version", [1, 2])
def test_a_removed_cgroup_is_absent(tmp_path: Path, version: int) -> None:
    gone = str(tmp_path / "gone")
    names = ("memory", "cpu", "blkio", "pids")
    assert used(dict.fromkeys(names, (version, gone))) == {}
    assert used({}) == {}


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    stats.numa_stat_v1(text)
    stats.io_service(text)
    stats.device_data(text)


@pytest.mark.parametrize("version", [1, 2])
def test_each_read_returns_current_values(tmp_path: Path, version: int) -> None:
    """A reader sees changed values and removed files; new files after `close`."""
    names = {1: ("memory.usage_in_bytes", "blkio.throttle.read_bps_device"), 2: None}
    usage, limits = names[version] or ("memory.current", "io.max")
    line = "8:0 100\n" if version == 1 else "8:0 rbps=100 wbps=max\n"
    fill(tmp_path, {"memory.stat": "cache 1\n", usage: "1\n", "pids.max": "5\n"})
    directories = dict.fromkeys(("memory", "blkio", "pids"), (version, str(tmp_path)))
    statistics = stats.Statistics(directories)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        (tmp_path / usage).write_text(f"{number}\n")
        (tmp_path / "memory.stat").write_text(f"cache {number}\n" + "x 1\n" * 10_000)
        found = statistics.read()
        assert found["memory"]["memory"]["usage_in_bytes"] == number
        assert found["memory"]["memory"]["stat"]["raw"] == {"cache": number, "x": 1}
        assert found["blkio"]["throttle"]["read_bps_device"] == []
        assert len(os.listdir("/proc/self/fd")) > before
    (tmp_path / limits).write_text(line)
    statistics.close()
    statistics.close()
    assert len(os.listdir("/proc/self/fd")) == before
    wanted = [{"major": 8, "minor": 0, "data": 100}]
    assert statistics.read()["blkio"]["throttle"]["read_bps_device"] == wanted
    # No answer contains values of an earlier one, or of another container.
    assert used(directories | {"blkio": (version, str(tmp_path / "gone"))}).keys() == {
        "memory",
        "pids",
    }
    (tmp_path / limits).write_text("")
    assert statistics.read()["blkio"]["throttle"]["read_bps_device"] == []
    statistics.close()


_TEXTS: dict[str, tuple[str, ...]] = {
    "memory.stat": ("rss 1\ncache 2\n", "rss 2\ncache 2\n", "anon 3\n", ""),
    "memory.events": ("max 1\n", "max 2\noom_kill 1\n"),
    "memory.numa_stat": ("total=1 N0=1\n", "total=3 N0=1 N1=2\n", "file=2\n"),
    "memory.oom_control": ("oom_kill 0\n", "under_oom 1\noom_kill 4\n"),
    "memory.usage_in_bytes": ("1\n", "2\n"),
}


@pytest.mark.parametrize("version", [1, 2])
@given(
    st.lists(
        st.sampled_from([(name, text) for name, texts in _TEXTS.items() for text in texts]),
        max_size=12,
    )
)
def test_a_repeated_read_is_the_same_as_a_first_one(
    version: int, changes: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        fill(Path(directory), {name: texts[0] for name, texts in _TEXTS.items()})
        kept = stats.Statistics({"memory": (version, directory)})
        for name, text in changes:
            assert kept.read() == used({"memory": (version, directory)})
            (Path(directory) / name).write_text(text)
        assert kept.read() == used({"memory": (version, directory)})
        kept.close()
