"""Large numbers in a package or a directory: few log lines, and no client is delayed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error
from northstar.manifest import bounds
from northstar.model import PackageError
from tests.system.containers import Watch, exit_of, install
from tests.system.harness import (
    NO_KEY,
    PATIENCE,
    TIMEOUT,
    RuntimeProcess,
    exchange_manifest,
    manifest,
    pack,
)

pytestmark = pytest.mark.root

DEVICES = (
    *("weight_device", "throttle_read_bps_device", "throttle_read_iops_device"),
    *("throttle_write_bps_device", "throttle_write_iops_device"),
)
LINES_MAX = 20
"""Maximal log lines of a start: those of every start, and a few for each kind of warning."""


@pytest.fixture
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    names = [f"n{number}" for number in range(10_000)]
    limits = [{"major": 8, "minor": n, "rate": 1} for n in range(bounds.BLOCK_DEVICES_MAX)]
    attrs = dict.fromkeys(names[: bounds.CGROUP_ATTRS_MAX], "1")
    binds = {"type": "bind", "host": "/nowhere/at/all"}
    many: dict[str, dict[str, Any]] = {
        "seccomp": {
            "seccomp": {
                "profile": "default",
                "allow": dict.fromkeys(names[: bounds.SYSCALLS_MAX], "any"),
            }
        },
        "groups": {"suppl_groups": names[: bounds.SUPPL_GROUPS_MAX]},
        "attrs": {"cgroups": {"cpu": {"attrs": attrs}, "memory": {"attrs": attrs}}},
        "files": {
            "cgroups": {
                "memory": {"attrs": {f"memory.n{n}": "1" for n in range(bounds.CGROUP_ATTRS_MAX)}}
            }
        },
        "devices": {
            "cgroups": {
                "blkio": {
                    name: [{"major": 8, "minor": n} for n in range(bounds.BLOCK_DEVICES_MAX)]
                    if name == "weight_device"
                    else limits
                    for name in DEVICES
                }
            }
        },
        "unknown fields": {"cgroups": dict.fromkeys(names, 1)},
        "binds": {"mounts": {f"/m{n}": binds for n in range(bounds.MOUNTS_MAX)}},
    }
    return many[request.param]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ("seccomp", bounds.SYSCALLS_MAX),
        ("groups", bounds.SUPPL_GROUPS_MAX),
        ("attrs", bounds.CGROUP_ATTRS_MAX),
        ("files", bounds.CGROUP_ATTRS_MAX),
        ("devices", 0),
        ("unknown fields", 0),
        ("binds", bounds.MOUNTS_MAX),
    ],
    indirect=["fields"],
)
def test_as_many_as_a_manifest_may_have(
    runtime: RuntimeProcess, payload: Path, fields: dict[str, Any], count: int
) -> None:
    root = runtime.directory / "root"
    root.mkdir()
    (root / "payload").write_bytes(payload.read_bytes())
    (root / "payload").chmod(0o755)
    for number in range(bounds.MOUNTS_MAX if "mounts" in fields else 0):
        (root / f"m{number}").mkdir()
    package = pack(runtime.directory, manifest("app", args=["exit", "0"], **fields), root=root)
    with runtime.client(subscribe=True) as client:
        client.install(package, "mem")
        for _ in range(2):
            since = len(runtime.text())
            with Watch(runtime) as watch:
                client.start("app:1.0.0")
            exit_of(client, "app:1.0.0")
            runtime.wait_log("Container app:1.0.0 exited", since=since)
            said = runtime.text()[since:]
            assert len(said.splitlines()) <= LINES_MAX, said
            assert max(map(len, said.splitlines())) < 2000
            if count:
                assert re.search(rf"\b{count - 5} more\b", said), said
            assert watch.slowest < 1.0 * PATIENCE


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("seccomp.allow", {"seccomp": {"allow": {f"n{n}": "any" for n in range(45_000)}}}),
        (
            "cgroups.memory.attrs",
            {"cgroups": {"memory": {"attrs": {f"n{n}": "1" for n in range(30_000)}}}},
        ),
    ],
)
def test_more_than_a_manifest_may_have(
    runtime: RuntimeProcess, payload: Path, path: str, fields: dict[str, Any]
) -> None:
    text = manifest("app", **fields)
    count = max(len(fields.get("seccomp", {}).get("allow", ())), 30_000)
    with pytest.raises(PackageError, match=f"{path}: {count} entries are too many"):
        pack(runtime.directory, text, {"payload": payload})
    package = pack(runtime.directory, manifest("app"), {"payload": payload})
    exchange_manifest(package, text)
    since = len(runtime.text())
    with runtime.client(timeout=4 * TIMEOUT) as client, Watch(runtime) as watch:
        with pytest.raises(api.RefusedError) as caught:
            client.install(package, "mem")
        assert isinstance(caught.value.error, error.Unexpected)
        assert f"{path}: {count} entries are too many (at most " in str(caught.value)
    assert watch.slowest < 2.0 * PATIENCE
    runtime.wait_log("too many", since=since)
    lines = runtime.text()[since:].splitlines()
    assert len([line for line in lines if " DEBUG " not in line]) == 1


@pytest.fixture
def crowded(store: Path) -> Iterator[Callable[[], None]]:
    def fill() -> None:
        for number in range(10_000):
            (store / f"junk{number:05}").write_bytes(b"junk")
        for number in range(1000):
            (store / f".northstar-install:{number:016x}").touch()

    yield fill
    for path in store.iterdir():
        path.unlink()


def test_a_repository_of_ten_thousand_bad_files(
    make_runtime: Any, payload: Path, store: Path, crowded: Callable[[], None]
) -> None:
    package = pack(store.parent, manifest("app"), {"payload": payload})
    content = package.read_bytes()
    for number in range(50):
        (store / f"a{number:02}.npk").write_bytes(content)
    crowded()
    runtime = make_runtime(repositories={"fs": f'type.fs.dir = "{store}"\n{NO_KEY}'})
    said = runtime.text()
    assert len(said.splitlines()) < 60
    assert said.count("leaving it alone") == 20
    assert f"9980 more files of {store} cannot be loaded" in said
    assert f"Removing 995 more files of interrupted installs in {store}" in said
    assert "29 more packages of repository fs are skipped" in said
    with runtime.client() as client:
        assert [str(c) for c in client.list()] == ["app:1.0.0"]
    runtime.stop()


def raw(runtime: RuntimeProcess, line: str) -> bytes:
    """Send a line after connect; return all bytes until the runtime closes the connection."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(TIMEOUT)
        stream.connect(runtime.url.removeprefix("unix://"))
        stream.sendall(b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n')
        assert stream.recv(4096).endswith(b"\n")
        stream.sendall(line.encode() + b"\n")
        answer = b""
        while data := stream.recv(2**16):
            answer += data
        return answer


def test_a_megabyte_in_a_request_does_not_fill_the_log(
    runtime: RuntimeProcess, payload: Path
) -> None:
    long = "x" * 900_000
    container = install(runtime, payload)
    since = len(runtime.text())
    with runtime.client() as client:
        for init, arguments, environment in (
            (long, (), {}),
            ("<INIT>" * 150_000, (), {}),
            (None, (long,), {}),
            (None, (), {f"{long}=": "x"}),
            (None, (), {"x": long}),
        ):
            with pytest.raises(api.RefusedError) as caught:
                client.start(container, init=init, arguments=arguments, environment=environment)
            assert len(str(caught.value)) < 17_000
        with pytest.raises(api.RefusedError) as caught:
            client.install(b"x", long)
        assert len(str(caught.value)) < 1000
    for line in (
        f'{{"{long}":1}}',
        f'{{"request":{{"{long}":1}}}}',
        f'{{"request":{{"mount":{{"containers":["{long}"]}}}}}}',
        f'{{"request":{{"inspect":{{"container":"a:{long}"}}}}}}',
    ):
        answer = raw(runtime, line)
        assert answer == b"", answer[:100]
    runtime.wait_log("(closing the connection(?s:.*)){4}", since=since)
    said = runtime.text()[since:]
    assert max(map(len, said.splitlines()), default=0) < 17_000
    assert len(said) < 100_000
