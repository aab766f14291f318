"""What a container has used: the `statistics` of an inspect answer.

The shape is that of the protocol, which was made after version 1's files: `memory` (with `kmem`
and `kmem_tcp` beside it), `cpu` and `blkio`, and ours adds `pids`. Version 2 fills what means the
same there. Every file may vanish while it is read; then its value is 0, and a controller whose
directory is gone is absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from northstar.linux.cgroupfs import flat_keyed, nested_keyed, read

# (version, directory) of each controller
Directories = Mapping[str, tuple[int, str]]


def statistics(directories: Directories) -> dict[str, Any]:
    """Read the statistics of the controllers in `directories`: controller to (version, path)."""
    result = {}
    for member, readers in _READERS.items():
        if member in directories:
            version, directory = directories[member]
            found = readers[version - 1](directory)
            if found is not None:
                result[member] = found
    return result


def _text(directory: str, file: str) -> str:
    try:
        return read(f"{directory}/{file}")
    except OSError:
        return ""


def _number(directory: str, file: str) -> int:
    """Return a file's number: -1 is `max`, 0 a file that is missing."""
    text = _text(directory, file).strip()
    if text == "max":
        return -1
    return -_digits(text[1:]) if text.startswith("-") else _digits(text)


# memory


def _memory_v1(directory: str) -> dict[str, Any] | None:
    stat = flat_keyed(_text(directory, "memory.stat"))
    if not stat:
        return None
    kmem: dict[str, Any] = _usage_v1(directory, "memory.kmem.")
    kmem["slabinfo"] = _text(directory, "memory.kmem.slabinfo")
    memory: dict[str, Any] = _usage_v1(directory, "memory.")
    control = flat_keyed(_text(directory, "memory.oom_control"))
    memory.update(
        move_charge_at_immigrate=_number(directory, "memory.move_charge_at_immigrate"),
        numa_stat=numa_stat_v1(_text(directory, "memory.numa_stat")),
        oom_control={
            "oom_kill": control.get("oom_kill", 0),
            "oom_kill_disable": bool(control.get("oom_kill_disable", 0)),
            "under_oom": bool(control.get("under_oom", 0)),
        },
        soft_limit_in_bytes=_number(directory, "memory.soft_limit_in_bytes"),
        stat={**{key: stat.get(key, 0) for key in _STAT_KEYS}, "raw": stat},
        swappiness=_number(directory, "memory.swappiness"),
        use_hierarchy=_number(directory, "memory.use_hierarchy"),
    )
    return {"kmem": kmem, "kmem_tcp": _usage_v1(directory, "memory.kmem.tcp."), "memory": memory}


def _usage_v1(directory: str, prefix: str) -> dict[str, Any]:
    return {
        "fail_cnt": _number(directory, f"{prefix}failcnt"),
        "limit_in_bytes": _number(directory, f"{prefix}limit_in_bytes"),
        "max_usage_in_bytes": _number(directory, f"{prefix}max_usage_in_bytes"),
        "usage_in_bytes": _number(directory, f"{prefix}usage_in_bytes"),
    }


def _memory_v2(directory: str) -> dict[str, Any] | None:
    raw = flat_keyed(_text(directory, "memory.stat"))
    if not raw:
        return None
    stat = dict.fromkeys(_STAT_KEYS, 0)
    stat["swap"] = _number(directory, "memory.swap.current")
    for key, name in _STAT_FROM_V2.items():
        stat[key] = raw.get(name, 0)
    # Version 2 always counts the whole subtree.
    for key in _STAT_KEYS:
        if key.startswith("total_"):
            stat[key] = stat.get(key.removeprefix("total_"), 0)
    events = flat_keyed(_text(directory, "memory.events"))
    nothing = {"fail_cnt": 0, "limit_in_bytes": -1, "max_usage_in_bytes": 0}
    return {
        "kmem": {**nothing, "slabinfo": "", "usage_in_bytes": raw.get("kernel", 0)},
        "kmem_tcp": {**nothing, "usage_in_bytes": raw.get("sock", 0)},
        "memory": {
            "fail_cnt": events.get("max", 0),
            "limit_in_bytes": _number(directory, "memory.max"),
            "max_usage_in_bytes": _number(directory, "memory.peak"),
            "move_charge_at_immigrate": 0,
            "numa_stat": numa_stat_v1(""),
            "oom_control": {
                "oom_kill": events.get("oom_kill", 0),
                "oom_kill_disable": False,
                "under_oom": False,
            },
            "soft_limit_in_bytes": _number(directory, "memory.low"),
            "stat": {**stat, "raw": raw},
            "swappiness": 0,
            "usage_in_bytes": _number(directory, "memory.current"),
            "use_hierarchy": 1,
        },
    }


_LOCAL_KEYS = (
    *("active_anon", "active_file", "cache", "dirty", "inactive_anon", "inactive_file"),
    *("mapped_file", "pgfault", "pgmajfault", "pgpgin", "pgpgout", "rss", "rss_huge", "shmem"),
    *("swap", "unevictable", "writeback"),
)
_STAT_KEYS = (
    *_LOCAL_KEYS,
    *(f"total_{key}" for key in _LOCAL_KEYS),
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
)
# Version 1's keys by version 2's; a total is the same number.
_STAT_FROM_V2 = {
    **{key: key for key in ("active_anon", "active_file", "inactive_anon", "inactive_file")},
    **{key: key for key in ("pgfault", "pgmajfault", "shmem", "unevictable")},
    "cache": "file",
    "dirty": "file_dirty",
    "mapped_file": "file_mapped",
    "rss": "anon",
    "rss_huge": "anon_thp",
    "writeback": "file_writeback",
}


def numa_stat_v1(text: str) -> dict[str, Any]:
    """Parse `memory.numa_stat` of version 1: lines of `KEY=PAGES N0=PAGES N1=PAGES`."""
    lines: dict[str, tuple[int, list[int]]] = {}
    for line in text.splitlines():
        head, *nodes = line.split(" ")
        key, _, total = head.partition("=")
        lines[key] = (_digits(total), [_digits(node.partition("=")[2]) for node in nodes])
    result: dict[str, Any] = {}
    for prefix in ("", "hierarchical_"):
        for key in ("total", "file", "anon", "unevictable"):
            pages, per_node = lines.get(prefix + key, (0, []))
            result[f"{prefix}{key}_pages"] = pages
            result[f"{prefix}{key}_pages_per_node"] = per_node
    return result


def _digits(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


# blkio

# Members of version 1: lists of one entry per device, and totals of all devices. The files were
# the CFQ scheduler's (`blkio.io_merged`); what BFQ has is named after it (`blkio.bfq.io_merged`).
_IO_FILES = (
    *("io_merged", "io_queued", "io_service_bytes", "io_serviced"),
    *("io_service_time", "io_wait_time"),
)
_IO_DATA_FILES = ("sectors", "time")
_THROTTLE_FILES = ("io_service_bytes", "io_serviced")
_THROTTLES = ("read_bps_device", "read_iops_device", "write_bps_device", "write_iops_device")


def _blkio_v1(directory: str) -> dict[str, Any] | None:
    try:
        present = frozenset(os.listdir(directory))
    except OSError:
        return None

    def text(name: str) -> str:
        for file in (f"blkio.{name}", f"blkio.bfq.{name}"):
            if file in present:
                return _text(directory, file)
        return ""

    result: dict[str, Any] = {"io_stat": []}
    for name in _IO_FILES:
        for suffix in ("", "_recursive"):
            _put_io(result, name + suffix, text(name + suffix))
    for name in _IO_DATA_FILES:
        for suffix in ("", "_recursive"):
            result[name + suffix] = device_data(text(name + suffix))
    for name in ("weight", "leaf_weight"):
        result[name] = flat_keyed(f"value {text(name)}").get("value", 0)
        result[f"{name}_device"] = device_data(text(f"{name}_device"))
    throttle: dict[str, Any] = {}
    for name in _THROTTLE_FILES:
        for suffix in ("", "_recursive"):
            _put_io(throttle, name + suffix, text(f"throttle.{name}{suffix}"))
    for name in _THROTTLES:
        throttle[name] = device_data(text(f"throttle.{name}"))
    result["throttle"] = throttle
    return result


def _put_io(result: dict[str, Any], name: str, text: str) -> None:
    result[name], result[f"{name}_total"] = io_service(text)


def io_service(text: str) -> tuple[list[dict[str, int]], int]:
    """Parse lines of `MAJOR:MINOR OPERATION COUNT` and a last `Total COUNT`.

    Returns:
        one entry per device with the count of each operation, and the total of all.
    """
    devices: dict[str, dict[str, int]] = {}
    total = 0
    for line in text.splitlines():
        match line.split():
            case ["Total", count]:
                total = _digits(count)
            case [device, operation, count]:
                entry = devices.get(device)
                if entry is None:
                    entry = devices[device] = _device(device)
                    entry.update(dict.fromkeys(("read", "write", "sync", "async", "total"), 0))
                entry[operation.lower()] = _digits(count)
    return list(devices.values()), total


def device_data(text: str) -> list[dict[str, int]]:
    """Parse lines of `MAJOR:MINOR NUMBER`; a default (`default 100`) is none of them."""
    found = []
    for line in text.splitlines():
        device, _, value = line.partition(" ")
        if ":" in device:
            found.append({**_device(device), "data": _digits(value)})
    return found


def _device(name: str) -> dict[str, int]:
    major, _, minor = name.partition(":")
    return {"major": _digits(major), "minor": _digits(minor)}


def _blkio_v2(directory: str) -> dict[str, Any] | None:
    try:
        text = read(f"{directory}/io.stat")
    except OSError:
        return None
    result: dict[str, Any] = {
        "io_stat": [
            {
                **_device(device),
                **dict.fromkeys(("rbytes", "wbytes", "rios", "wios", "dbytes", "dios"), 0),
                **values,
            }
            for device, values in nested_keyed(text).items()
        ]
    }
    for name in _IO_FILES:
        for suffix in ("", "_recursive"):
            _put_io(result, name + suffix, "")
    for name in _IO_DATA_FILES:
        result[name] = result[f"{name}_recursive"] = []
    weight = flat_keyed(_text(directory, "io.weight"))
    limits = nested_keyed(_text(directory, "io.max"))
    throttle: dict[str, Any] = {}
    for name in _THROTTLE_FILES:
        for suffix in ("", "_recursive"):
            _put_io(throttle, name + suffix, "")
    for name, key in zip(_THROTTLES, ("rbps", "riops", "wbps", "wiops"), strict=True):
        throttle[name] = [
            {**_device(device), "data": values[key]}
            for device, values in limits.items()
            if key in values
        ]
    result.update(
        weight=weight.get("default", 0),
        weight_device=device_data(_text(directory, "io.weight")),
        leaf_weight=0,
        leaf_weight_device=[],
        throttle=throttle,
    )
    return result


# cpu and pids


def _cpu(directory: str) -> dict[str, Any] | None:
    text = _text(directory, "cpu.stat")
    return {"stat": text} if text else None


def _pids(directory: str) -> dict[str, Any] | None:
    if not _text(directory, "pids.max"):
        return None
    limit = _number(directory, "pids.max")
    return {"current": _number(directory, "pids.current"), "max": None if limit < 0 else limit}


_Reader = Callable[[str], dict[str, Any] | None]
# For each member how version 1 and version 2 are read.
_READERS: dict[str, tuple[_Reader, _Reader]] = {
    "memory": (_memory_v1, _memory_v2),
    "cpu": (_cpu, _cpu),
    "blkio": (_blkio_v1, _blkio_v2),
    "pids": (_pids, _pids),
}
