"""The JSON Schema is valid, and agrees with the reader about the vectors."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from northstar import manifest
from northstar.model import ManifestError
from tests import vectors

SCHEMA = manifest.schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
APP: dict[str, Any] = {"name": "a", "version": "1.0.0", "init": "/a", "uid": 1, "gid": 1}


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    # Only JSON values: no tuples, no infinite numbers.
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA


@pytest.mark.parametrize("vector", vectors.load("manifest") + vectors.load("service"))
def test_vector(vector: dict[str, Any]) -> None:
    if "ok" in vector:
        VALIDATOR.validate(vector["ok"])


REFUSED: list[dict[str, Any]] = [
    {"name": ".."},
    {"name": ""},
    {"version": "01.0.0"},
    {"init": ""},
    {"uid": 0},
    {"gid": 65536},
    {"unknown": 1},
    {"args": ["a", 1]},
    {"env": {"A" * 65: "b"}},
    {"env": {f"A{i}": "b" for i in range(65)}},
    {"console": {}},
    {"console": {"permissions": ["all"]}},
    {"sched": {"policy": "fifo"}},
    {"sched": {"policy": {"fifo": {"priority": 100}}}},
    {"sched": {"policy": {"fifo": {"priority": 1}, "other": {"nice": 1}}}},
    {"mounts": {"a": {"type": "proc"}}},
    {"mounts": {"/a": {"type": "overlay"}}},
    {"mounts": {"/a": {"host": "/a"}}},
    {"mounts": {"/a": {"type": "bind", "host": "/a", "options": "ro"}}},
    {"mounts": {"/a": {"type": "tmpfs", "size": "1.5M"}}},
    {"mounts": {"/a": {"type": "tmpfs", "size": 2**64}}},
    {"mounts": {"/a": {"type": "resource", "name": "r", "version": "1", "dir": "rel"}}},
    {"autostart": "Relaxed"},
    {"cgroups": {"parent": "/a"}},
    {"cgroups": {"memory": {"memory_hard_limit": "10M"}}},
    {"cgroups": {"blkio": {}}},
    {"cgroups": {"cpu": {"attrs": {"..": "1"}}}},
    {"network": {"namespace": "a/b"}},
    {"seccomp": {"allow": {"open": {"args": {"index": 6, "mask": 1}}}}},
    {"seccomp": {"allow": {"open": {"args": {"index": 1, "values": [1] * 51}}}}},
    {"seccomp": {"allow": {"open": {"args": {"index": 1}}}}},
    {"selinux": {"exec": "a b"}},
    {"capabilities": ["cap_kill"]},
    {"capabilities": ["CAP_KILL", "CAP_KILL"]},
    {"suppl_groups": [f"g{i}" for i in range(65)]},
    {"rlimits": {"NPROC": {}}},
    {"rlimits": {"nproc": {"soft": -1}}},
    {"sockets": {"a/b": {"type": "stream", "mode": 1}}},
    {"sockets": {"a": {"type": "stream"}}},
    {"io": {"stdout": "pipe"}},
    {"service": {"unknown": 1}},
    {"service": {"restart": {}}},
    {"service": {"restart": {"policy": "on_failure"}}},
    {"service": {"restart": {"policy": "always", "factor": 11}}},
    {"service": {"restart": {"policy": "always", "limit": 3}}},
    {"service": {"restart": {"policy": "always", "interval": "1s"}}},
    {"service": {"stop": {"timeout": 10}}},
    {"service": {"stop": {"signal": 32}}},
    {"service": {"after": ["a:1.0.0"]}},
    {"service": {"notify": "/"}},
    {"service": {"notify": "n"}},
    {"service": {"watchdog": "1s"}},
    {"service": {"watchdog": "1s", "notify": None}},
    {"service": {"restart": {"policy": "always", "limit": 3, "interval": None}}},
    {"service": {"ready": {"probe": "notify"}}},
    {"service": {"ready": {"probe": {"exec": []}}}},
    {"service": {"ready": {"probe": {"exec": [""]}}}},
    {"service": {"ready": {"probe": {"connect": "udp:1"}}}},
    {"service": {"health": {"probe": "notify"}}},
    {"service": {"log": {"size": 65537}}},
    {"service": {"log": {"size": 4096}}},
    {"service": {"update": {"tries": 0}}},
    {"service": {"permissions": ["list"]}, "console": {"permissions": []}},
    {"console": {"permissions": ["logs"]}},
    {"init": None, "service": {}},
    {"init": None, "args": ["a"]},
    {"init": None, "cgroups": {}},
    {"init": None, "env": {"A": "b"}},
]


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: json.dumps(change)[:50])
def test_it_refuses_what_the_reader_refuses(change: dict[str, Any]) -> None:
    value = {**APP, **change}
    assert not VALIDATOR.is_valid(value)
    with pytest.raises(ManifestError):
        manifest.from_builtins(value)


ACCEPTED: list[dict[str, Any]] = [
    {"cgroups": {"unknown": 1, "cpu": {"unknown": 1}}},
    {"mounts": {"/p": {"type": "proc", "options": "ro"}}},
    {"mounts": {"/a": {"type": "bind", "host": "/a", "options": "rw, nosuid"}}},
    {"mounts": {"/a": {"type": "tmpfs", "size": "10 MiB"}}},
    {"rlimits": {"nproc": {"soft": None}}},
    {"console": None},
    {"init": None, "args": [], "env": {}, "seccomp": None, "rlimits": {"cpu": {}}},
    {"args": ["a"], "cgroups": {}},
    {"service": {"stop": {"signal": "sigint", "timeout": "1m 30s"}}},
    {"service": {"log": {"size": "256KiB"}, "after": ["b"], "ready": None}},
    {"service": {"watchdog": None, "restart": {"policy": "never", "limit": None}}},
    {"service": {"notify": "/n", "watchdog": "1s", "ready": {"probe": "notify"}}},
    {"service": {"ready": {"probe": {"connect": "tcp:1"}}}},
    {"custom": {"a": [1, None, {"b": 1.5}]}},
]


@pytest.mark.parametrize("change", ACCEPTED, ids=lambda change: json.dumps(change)[:50])
def test_it_accepts_what_the_reader_accepts(change: dict[str, Any]) -> None:
    value = {**APP, **change}
    VALIDATOR.validate(value)
    manifest.from_builtins(value)
