"""Bounds of a manifest: the bound is accepted, one more is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from northstar import manifest
from northstar.manifest import bounds
from northstar.model import ManifestError
from northstar.model.text import NAMED_MAX

APP = {"name": "a", "version": "1.0.0", "init": "/a", "uid": 1000, "gid": 1000}
DEVICE_LISTS = (
    *("weight_device", "throttle_read_bps_device", "throttle_read_iops_device"),
    *("throttle_write_bps_device", "throttle_write_iops_device"),
)


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def nothing() -> dict[str, Any]:
    return {key: [] for key in DEVICE_LISTS}


def blkio(name: str, count: int) -> dict[str, Any]:
    limit = [{"major": 8, "minor": n, "rate": 1} for n in range(count)]
    if name == "weight_device":
        limit = [{"major": 8, "minor": n} for n in range(count)]
    return {"cgroups": {"blkio": {**nothing(), name: limit}}}


def attrs(section: str, count: int) -> dict[str, Any]:
    extra: dict[str, Any] = nothing() if section == "blkio" else {}
    return {"cgroups": {section: {**extra, "attrs": dict.fromkeys(names(count), "1")}}}


Make = Callable[[int], dict[str, Any]]

COUNTS: dict[str, tuple[int, Make]] = {
    "args": (bounds.ARGUMENTS_MAX, lambda n: {"args": names(n)}),
    "env": (bounds.ENV_MAX, lambda n: {"env": dict.fromkeys(names(n), "")}),
    "suppl_groups": (bounds.SUPPL_GROUPS_MAX, lambda n: {"suppl_groups": names(n)}),
    "mounts": (
        bounds.MOUNTS_MAX,
        lambda n: {"mounts": {f"/{name}": {"type": "proc"} for name in names(n)}},
    ),
    "sockets": (
        bounds.SOCKETS_MAX,
        lambda n: {"sockets": {name: {"type": "stream", "mode": 0} for name in names(n)}},
    ),
    "seccomp.allow": (
        bounds.SYSCALLS_MAX,
        lambda n: {"seccomp": {"allow": dict.fromkeys(names(n), "any")}},
    ),
    "seccomp.allow.read.args.values": (
        bounds.SYSCALL_VALUES_MAX,
        lambda n: {
            "seccomp": {"allow": {"read": {"args": {"index": 0, "values": list(range(n))}}}}
        },
    ),
    "service.after": (bounds.AFTER_MAX, lambda n: {"service": {"after": names(n)}}),
    "service.ready.probe.exec": (
        bounds.ARGUMENTS_MAX,
        lambda n: {"service": {"ready": {"probe": {"exec": names(n)}}}},
    ),
    **{
        f"cgroups.{section}.attrs": (
            bounds.CGROUP_ATTRS_MAX,
            lambda n, section=section: attrs(section, n),  # type: ignore[misc]
        )
        for section in ("cpu", "memory", "blkio")
    },
    **{
        f"cgroups.blkio.{name}": (
            bounds.BLOCK_DEVICES_MAX,
            lambda n, name=name: blkio(name, n),  # type: ignore[misc]
        )
        for name in DEVICE_LISTS
    },
}

LENGTHS: dict[str, tuple[int, Callable[[str], dict[str, Any]]]] = {
    "init": (bounds.INIT_MAX, lambda text: {"init": text}),
    "args.0": (bounds.ARGUMENT_MAX, lambda text: {"args": [text]}),
    "suppl_groups.0": (bounds.SUPPL_GROUP_MAX, lambda text: {"suppl_groups": [text]}),
    "env.a": (bounds.ENV_VALUE_MAX, lambda text: {"env": {"a": text}}),
    "mounts./m.host": (
        bounds.PATH_MAX,
        lambda text: {"mounts": {"/m": {"type": "bind", "host": text}}},
    ),
    "cgroups.parent": (bounds.PATH_MAX, lambda text: {"cgroups": {"parent": text}}),
    "cgroups.cpu.cpus": (
        bounds.CGROUP_VALUE_MAX,
        lambda text: {"cgroups": {"cpu": {"cpus": text}}},
    ),
    "cgroups.cpu.attrs.cpu.x": (
        bounds.CGROUP_VALUE_MAX,
        lambda text: {"cgroups": {"cpu": {"attrs": {"cpu.x": text}}}},
    ),
    "service.health.probe.exec.0": (
        bounds.INIT_MAX,
        lambda text: {"service": {"health": {"probe": {"exec": [text]}}}},
    ),
    "service.health.probe.exec.1": (
        bounds.ARGUMENT_MAX,
        lambda text: {"service": {"health": {"probe": {"exec": ["a", text]}}}},
    ),
    "service.notify": (
        bounds.NOTIFY_MAX,
        lambda text: {"service": {"notify": "/" + text[1:]}},
    ),
    "selinux.exec": (bounds.CONTEXT_MAX, lambda text: {"selinux": {"exec": text}}),
}

KEYS: dict[str, tuple[int, Callable[[str], dict[str, Any]]]] = {
    "mounts": (
        bounds.PATH_MAX,
        lambda text: {"mounts": {"/" + text[1:]: {"type": "proc"}}},
    ),
    "env": (bounds.ENV_NAME_MAX, lambda text: {"env": {text: ""}}),
    "sockets": (
        bounds.FILE_NAME_MAX,
        lambda text: {"sockets": {text: {"type": "stream", "mode": 0}}},
    ),
    "seccomp.allow": (
        bounds.SYSCALL_NAME_MAX,
        lambda text: {"seccomp": {"allow": {text: "any"}}},
    ),
    "cgroups.cpu.attrs": (
        bounds.FILE_NAME_MAX,
        lambda text: {"cgroups": {"cpu": {"attrs": {text: "1"}}}},
    ),
}


def load(fields: dict[str, Any]) -> manifest.Manifest:
    return manifest.loads(json.dumps({**APP, **fields}))


def refusal(fields: dict[str, Any]) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        load(fields)
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize("path", COUNTS)
def test_entries(path: str) -> None:
    most, make = COUNTS[path]
    load(make(most))
    error = refusal(make(most + 1))
    assert error.path == path
    assert error.rule in (
        f"{most + 1} entries are too many (at most {most})",
        f"{most + 1} items are too many (at most {most})",
    )


@pytest.mark.parametrize("path", LENGTHS)
def test_lengths(path: str) -> None:
    most, make = LENGTHS[path]
    load(make("x" * most))
    error = refusal(make("x" * (most + 1)))
    assert error.path == path
    assert f"of {most + 1} bytes is too long (at most {most})" in error.rule


@pytest.mark.parametrize("path", KEYS)
def test_lengths_of_keys(path: str) -> None:
    most, make = KEYS[path]
    load(make("x" * most))
    error = refusal(make("x" * (most + 1)))
    assert error.path.startswith(path)
    assert f"of {most + 1} bytes is too long (at most {most})" in error.rule


@pytest.mark.parametrize("path", ["seccomp.allow", "cgroups.memory.attrs"])
def test_a_flood_is_refused_before_its_entries_are_read(path: str) -> None:
    text = json.dumps({**APP, **COUNTS[path][1](30_000)})
    begun = time.process_time()
    report = manifest.check(text)
    # Twice the time of a slow machine to parse it as two languages.
    assert time.process_time() - begun < 10
    assert [error.path for error in report.errors] == [path]


def test_the_schema_has_the_bounds() -> None:
    properties = manifest.schema()["properties"]
    assert properties["args"]["maxItems"] == bounds.ARGUMENTS_MAX
    mounts = properties["mounts"]
    assert mounts["maxProperties"] == bounds.MOUNTS_MAX


def test_ignored_fields_are_counted_beyond_the_first() -> None:
    text = json.dumps({**APP, "cgroups": dict.fromkeys(names(3000), 1)})
    _, warnings = manifest.loads_with_warnings(text)
    assert len(warnings) == 101
    assert warnings[-1] == "2900 more like these"


def test_unknown_system_calls_are_counted_beyond_the_first() -> None:
    fields = {"seccomp": {"allow": dict.fromkeys(names(1000), "any")}}
    report = manifest.check(json.dumps({**APP, **fields}), is_syscall=lambda _: False)
    found = [warning for warning in report.warnings if warning.startswith("seccomp.allow")]
    assert len(found) == NAMED_MAX + 1
    assert found[0] == "seccomp.allow.n0: no system call of this name is known"
    assert found[-1] == f"seccomp.allow: {1000 - NAMED_MAX} more names are not known either"
