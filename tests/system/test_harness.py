"""The harness: a runtime starts, leaves nothing, and a leak is detected."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import host
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]


def test_a_runtime_comes_up_and_leaves_nothing(runtime: RuntimeProcess):
    with runtime.client() as client:
        assert list(client.list()) == []
        assert list(client.repositories()) == ["mem"]
    runtime.stop()


def test_a_whole_cycle_leaves_nothing(runtime: RuntimeProcess, tmp_path: Path, payload: Path):
    package = pack(tmp_path, manifest("app", args=["pause"]), {"payload": payload})
    with runtime.client() as client:
        before = runtime.snapshot()
        container = client.install(package, "mem")
        client.start(container)
        assert len(host.descendants(runtime.pid)) >= 2
        during = runtime.snapshot()
        assert during.mounts != before.mounts
        assert during.loops
        assert during.processes
        client.kill(container, signal.SIGKILL)
        runtime.wait_log("Container app:1.0.0 exited with status")
        client.umount(container)
        client.uninstall(container)
        runtime.assert_no_leak(before)
    runtime.stop()


def test_containers_end_with_a_killed_runtime(
    runtime: RuntimeProcess, tmp_path: Path, payload: Path
):
    package = pack(tmp_path, manifest("app", args=["pause"]), {"payload": payload})
    with runtime.client() as client:
        client.start(client.install(package, "mem"))
    init = host.descendants(runtime.pid)
    runtime.kill()
    wait_until(lambda: all(host.state(pid) is None for pid in init), "the container is gone")


def test_tcp_console_is_in_its_own_network(make_runtime: Callable[..., RuntimeProcess]):
    runtime = make_runtime(tcp=True)
    assert runtime.nstar("repositories").stdout.split() == ["mem"]
    other = subprocess.run(["readlink", "/proc/self/ns/net"], capture_output=True, text=True)
    assert os.readlink(f"/proc/{runtime.pid}/ns/net") != other.stdout.strip()
    runtime.stop()


def test_a_leak_is_detected(runtime: RuntimeProcess):
    before = runtime.snapshot()
    for root in host.cgroup_roots():
        if (root / "cgroup.procs").exists():
            (root / runtime.cgroup / "left").mkdir(parents=True, exist_ok=True)
    (runtime.run_dir / "left").mkdir()
    with pytest.raises(AssertionError) as caught:
        runtime.assert_no_leak(before, timeout=0.1)
    assert "cgroups: new:" in str(caught.value)
    assert "files: new: run/left" in str(caught.value)
