"""The statistics of an inspect answer have the shape that clients know, whatever the files hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.runtime import cgroup_stats
from tests.vectors import DIRECTORY


def vector(version: int) -> dict[str, Any]:
    """The statistics of a recorded answer."""
    answer = json.loads((DIRECTORY / f"inspect-cgroup-v{version}.json").read_text())
    process = answer["response"]["inspect"]["ok"]["data"]["process"]
    statistics: dict[str, Any] = process["statistics"]
    return statistics


def fill(directory: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (directory / name).write_text(text)
    return str(directory)


def flat(values: dict[str, int]) -> str:
    return "".join(f"{key} {value}\n" for key, value in values.items())


def v1_files(statistics: dict[str, Any]) -> dict[str, str]:
    """The files of version 1 that make the recorded statistics."""
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
    }
    for name in ("swappiness", "use_hierarchy", "soft_limit_in_bytes", "move_charge_at_immigrate"):
        files[f"memory.{name}"] = f"{memory[name]}\n"
    return files


def test_version_1_gives_the_recorded_answer(tmp_path: Path) -> None:
    recorded = vector(1)
    directory = fill(tmp_path, v1_files(recorded))
    names = ("memory", "cpu", "blkio", "pids", "cpuset", "cpuacct")
    result = cgroup_stats.statistics(dict.fromkeys(names, (1, directory)))
    assert result.pop("pids") == {"current": 2, "max": None}
    assert result == recorded


def shape(value: Any) -> Any:
    """Names and types, without `raw`, which is the kernel's own list."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key != "raw"}
    return type(value).__name__


def test_version_2_has_the_recorded_shape_and_the_same_meaning(tmp_path: Path) -> None:
    recorded = vector(2)
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
    result = cgroup_stats.statistics(
        dict.fromkeys(("memory", "cpu", "blkio", "pids"), (2, directory))
    )
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
    wanted, got = shape(recorded), shape(result)
    assert missing(wanted, got) == []


def missing(wanted: Any, got: Any, path: str = "") -> list[str]:
    """What of a recorded shape is absent or of another type."""
    if not isinstance(wanted, dict):
        return [] if wanted == got else [path]
    if not isinstance(got, dict):
        return [path]
    return [
        hole
        for key, inner in wanted.items()
        for hole in (
            [f"{path}.{key}"] if key not in got else missing(inner, got[key], f"{path}.{key}")
        )
    ]


def test_the_counters_of_io_schedulers() -> None:
    text = (
        "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Async 0\n8:0 Discard 4\n8:0 Total 7\n"
        "8:16 Read 5\n8:16 Total 5\nTotal 12\n"
    )
    assert cgroup_stats.io_service(text) == (
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
    assert cgroup_stats.io_service("Total 0\n") == ([], 0)


def test_bfq_files_stand_in_for_those_of_cfq(tmp_path: Path) -> None:
    directory = fill(
        tmp_path,
        {
            "blkio.bfq.weight": "100\n",
            "blkio.bfq.io_serviced": "8:0 Read 3\n8:0 Total 3\nTotal 3\n",
            "blkio.throttle.read_bps_device": "8:0 1000\n",
        },
    )
    result = cgroup_stats.statistics({"blkio": (1, directory)})["blkio"]
    assert result["weight"] == 100
    assert result["io_serviced_total"] == 3
    assert result["throttle"]["read_bps_device"] == [{"major": 8, "minor": 0, "data": 1000}]


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_that_is_gone_is_absent(tmp_path: Path, version: int) -> None:
    gone = str(tmp_path / "gone")
    names = ("memory", "cpu", "blkio", "pids")
    assert cgroup_stats.statistics(dict.fromkeys(names, (version, gone))) == {}
    assert cgroup_stats.statistics({}) == {}


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    cgroup_stats.numa_stat_v1(text)
    cgroup_stats.io_service(text)
    cgroup_stats.device_data(text)
