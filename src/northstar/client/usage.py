"""What a container uses, in one form for both versions of cgroups.

`statistics` reads the raw statistics of an inspect answer. Their members are those of Northstar
0.9.2, and differ between the versions; see `northstar.api.response.Process`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

_V1_UNLIMITED: Final = 2**62
"""A limit from here on is none: version 1 reports the largest multiple of a page below 2**63."""

_US: Final = 1000


class Statistics(NamedTuple):
    """The usage of a container since its start, including that of cgroups below its own.

    A field is None if the kernel does not count it, or if the host has no such controller.
    Version 2 of cgroups is described in the kernel's admin-guide/cgroup-v2.rst, version 1 in
    admin-guide/cgroup-v1.

    Attributes:
        cpu_ns: processor time, in nanoseconds.
        cpu_throttled_ns: time for which it had to wait since its quota was used up, in nanoseconds.
        memory_bytes: memory in use, with its part of the page cache and of the kernel's memory.
        memory_limit_bytes: the limit of it; None without a limit.
        memory_peak_bytes: most memory that was in use (version 2: since Linux 5.19).
        memory_anonymous_bytes: memory that is not backed by files, without swap.
        memory_file_bytes: page cache, with tmpfs.
        memory_swap_bytes: swap in use.
        memory_failures: how often memory could not be charged at once because of the limit.
        oom_kills: processes that the kernel killed for lack of memory.
        pids: number of processes and threads.
        pids_limit: the limit of it; None without a limit.
        read_bytes: bytes read from block devices.
        written_bytes: bytes written to block devices.
    """

    cpu_ns: int | None = None
    cpu_throttled_ns: int | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_anonymous_bytes: int | None = None
    memory_file_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_failures: int | None = None
    oom_kills: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None


def statistics(raw: Mapping[str, Any]) -> Statistics:
    """Return the usage that the raw statistics of an inspect answer describe.

    Members that are absent or have another type, as those of a runtime of another version, count
    as unknown; nothing is raised.

    Args:
        raw: `data.process.statistics` of an inspect answer.
    """
    memory = _member(raw, "memory", "memory")
    stat = _member(memory, "stat")
    # The members beside `raw` are those of version 1. Northstar 0.9.2 leaves some 0 in version 2.
    raw_stat = _member(stat, "raw")
    pids = _member(raw, "pids")
    limit = _number(memory, "limit_in_bytes")
    cpu = _cpu(raw)
    read, written = _io(_member(raw, "blkio"))
    return Statistics(
        **cpu,
        memory_bytes=_number(memory, "usage_in_bytes"),
        memory_limit_bytes=None if limit is None or limit >= _V1_UNLIMITED else limit,
        # 0 is the value of a kernel without the file.
        memory_peak_bytes=_number(memory, "max_usage_in_bytes") or None,
        memory_anonymous_bytes=_first(_number(raw_stat, "anon"), _number(stat, "total_rss")),
        memory_file_bytes=_first(_number(raw_stat, "file"), _number(stat, "total_cache")),
        memory_swap_bytes=_number(stat, "total_swap"),
        memory_failures=_number(memory, "fail_cnt"),
        oom_kills=_number(_member(memory, "oom_control"), "oom_kill"),
        pids=_number(pids, "current"),
        pids_limit=_number(pids, "max"),
        read_bytes=read,
        written_bytes=written,
    )


def _cpu(raw: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the fields of the processor.

    Version 2 has all in `cpu.stat`. In version 1 the controller cpuacct counts the time, and
    `cpu.stat` contains `throttled_time` in ns.
    """
    text = _member(raw, "cpu").get("stat")
    stat = dict(_pairs(text if isinstance(text, str) else ""))
    used = _number(_member(raw, "cpuacct"), "usage")
    if "usage_usec" in stat:
        used = stat["usage_usec"] * _US
    throttled = stat.get("throttled_time")
    if "throttled_usec" in stat:
        throttled = stat["throttled_usec"] * _US
    return {"cpu_ns": used, "cpu_throttled_ns": throttled}


def _io(blkio: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the bytes read and written. Each version fills one of two lists of devices."""
    devices = _list(blkio, "io_stat")
    names = ("rbytes", "wbytes")
    if not devices:
        devices = _list(_member(blkio, "throttle"), "io_service_bytes_recursive")
        names = ("read", "write")
    if not blkio:
        return None, None
    read, written = (sum(_number(one, name) or 0 for one in devices) for name in names)
    return read, written


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isascii() and value.isdigit() and len(value) < 20:
            yield key, int(value)


def _member(value: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """Return an object below `value`; an empty one if there is none."""
    for name in path:
        found = value.get(name)
        if not isinstance(found, Mapping):
            return {}
        value = found
    return value


def _list(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = value.get(name)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _number(value: Mapping[str, Any], name: str) -> int | None:
    """Return a number; None if it is absent, or negative (-1 is `max` in version 2)."""
    found = value.get(name)
    is_number = isinstance(found, int) and not isinstance(found, bool) and found >= 0
    return found if is_number else None
