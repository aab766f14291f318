"""Typed statistics: the same fields for both versions of cgroups, and nothing raised for others."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.client.usage import Statistics, statistics
from tests import vectors


def test_recorded_data_of_version_1() -> None:
    """The kernel of the recording had no cpuacct and no limit."""
    assert statistics(vectors.statistics(1)) == Statistics(
        cpu_ns=None,
        cpu_throttled_ns=0,
        memory_bytes=245760,
        memory_limit_bytes=None,
        memory_peak_bytes=524288,
        memory_anonymous_bytes=69632,
        memory_file_bytes=0,
        memory_swap_bytes=0,
        memory_failures=0,
        oom_kills=0,
        pids=None,
        pids_limit=None,
        read_bytes=0,
        written_bytes=0,
    )


def test_recorded_data_of_version_2() -> None:
    used = statistics(vectors.statistics(2))
    assert used == Statistics(
        cpu_ns=34_442_000,
        cpu_throttled_ns=0,
        memory_bytes=used.memory_bytes,
        memory_limit_bytes=None,
        memory_peak_bytes=786432,
        # Of `raw`: the members that are named as in version 1 are 0 in Northstar 0.9.2.
        memory_anonymous_bytes=61440,
        memory_file_bytes=32768,
        memory_swap_bytes=0,
        memory_failures=0,
        oom_kills=0,
        pids=None,
        pids_limit=None,
        read_bytes=0,
        written_bytes=0,
    )
    assert used.memory_bytes == vectors.statistics(2)["memory"]["memory"]["usage_in_bytes"]


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (
            {
                "cpu": {"stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 7\n"},
                "cpuacct": {"usage": 123},
                "pids": {"current": 3, "max": 20},
                "memory": {"memory": {"limit_in_bytes": 16 << 20, "oom_control": {"oom_kill": 2}}},
                "blkio": {
                    "io_stat": [],
                    "throttle": {
                        "io_service_bytes_recursive": [
                            {"major": 8, "minor": 0, "read": 512, "write": 4096, "total": 4608},
                            {"major": 7, "minor": 1, "read": 1024, "write": 0, "total": 1024},
                        ]
                    },
                },
            },
            {
                "cpu_ns": 123,
                "cpu_throttled_ns": 7,
                "pids": 3,
                "pids_limit": 20,
                "memory_limit_bytes": 16 << 20,
                "oom_kills": 2,
                "read_bytes": 1536,
                "written_bytes": 4096,
            },
        ),
        (
            {
                "cpu": {"stat": "usage_usec 2\nthrottled_usec 3\n"},
                "pids": {"current": 3, "max": None},
                "memory": {"memory": {"limit_in_bytes": -1, "max_usage_in_bytes": 0}},
                "blkio": {"io_stat": [{"rbytes": 512, "wbytes": 1}, {"rbytes": 1, "wbytes": 0}]},
            },
            {
                "cpu_ns": 2000,
                "cpu_throttled_ns": 3000,
                "pids": 3,
                "read_bytes": 513,
                "written_bytes": 1,
            },
        ),
        ({}, {}),
    ],
)
def test_both_versions_have_one_form(raw: Any, fields: dict[str, int]) -> None:
    assert statistics(raw) == Statistics(**fields)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to all members below a value."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(below, (*path, key))


RECORDED = {version: vectors.statistics(version) for version in (1, 2)}
PLACES = [(version, path) for version, raw in RECORDED.items() for path in places(raw)]
OTHER: list[Any] = [
    None,
    True,
    -1,
    -(2**70),
    1.5,
    "text",
    "usage_usec x\n",
    [],
    [1],
    {},
    {"raw": 1},
]


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(OTHER)), min_size=1))
def test_data_of_another_runtime_is_unknown_not_an_error(changes: list[Any]) -> None:
    [((version, _), _), *_] = changes
    raw = copy.deepcopy(RECORDED[version])
    for (_, path), value in changes:
        *parents, last = path
        node: Any = raw
        try:
            for key in parents:
                node = node[key]
            node[last] = value
        except (TypeError, LookupError):
            continue  # an earlier change has removed this place
    for found in statistics(raw):
        assert found is None or (isinstance(found, int) and found >= 0)


@pytest.mark.parametrize("member", ["memory", "cpu", "blkio"])
@pytest.mark.parametrize("value", OTHER)
def test_a_member_of_another_type(member: str, value: Any) -> None:
    statistics({**RECORDED[2], member: value})
