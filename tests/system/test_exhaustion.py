"""A runtime without free descriptors: each step that needs one fails, and nothing is left."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from northstar import api
from northstar.api import error, response
from northstar.model import Signalled
from tests.system.containers import exit_of, install
from tests.system.harness import RuntimeProcess, manifest, pack

pytestmark = pytest.mark.root

ENOUGH = 60
"""A number of free descriptors that suffices for every operation."""


def leave(runtime: RuntimeProcess, free: int) -> None:
    """Let the runtime open only `free` more descriptors."""
    used = {int(number) for number in os.listdir(f"/proc/{runtime.pid}/fd")}
    limit = max(n for n in range(1024) if n - sum(u < n for u in used) == free)
    hard = resource.prlimit(runtime.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(runtime.pid, resource.RLIMIT_NOFILE, (limit, hard))


def test_starts_without_descriptors(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(
        runtime,
        payload,
        args="pause",
        console={"permissions": "full"},
        sockets={name: {"type": "stream", "mode": 0o600} for name in "ab"},
        cgroups={"memory": {"oom_monitor": True}},
        mounts={"/data": {"type": "persist"}},
    )
    reasons = set()
    with runtime.client(subscribe=True) as client:
        client.start(container)
        client.kill(container, 9)
        exit_of(client, container)
        client.umount(container)
        before = runtime.snapshot()
        for free in range(ENOUGH):
            leave(runtime, free)
            try:
                client.start(container)
            except api.RefusedError as answer:
                assert isinstance(answer.error, error.StartContainerFailed)
                reasons.add(str(answer.error.error))
                leave(runtime, ENOUGH)
                client.umount(container)
                runtime.assert_no_leak(before)
            else:
                leave(runtime, ENOUGH)
                client.kill(container, 9)
                assert exit_of(client, container) == Signalled(9)
                break
    assert free > 10
    assert all("Too many open files" in reason for reason in reasons), reasons
    # Several different steps failed.
    assert len(reasons) >= 4, reasons
    assert "Traceback" not in runtime.text()
    runtime.stop()


@pytest.mark.parametrize("repository", ["mem", "fs"])
def test_installs_without_descriptors(
    make_runtime, tmp_path: Path, payload: Path, repository: str
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    table = f'type = {{ fs = {{ dir = "{store}" }} }}' if repository == "fs" else 'type = "mem"'
    runtime = make_runtime(repositories={repository: table})
    package = pack(tmp_path, manifest("app"), {"payload": payload})
    failed = 0
    with runtime.client() as client:
        client.install(package, repository)
        client.uninstall("app:1.0.0")
        before = runtime.snapshot()
        for free in range(ENOUGH):
            leave(runtime, free)
            try:
                client.install(package, repository)
            except api.RefusedError as answer:
                assert "Too many open files" in str(answer.error)
                leave(runtime, ENOUGH)
                runtime.assert_no_leak(before)
                failed += 1
            else:
                break
        leave(runtime, ENOUGH)
        assert isinstance(client.mount("app:1.0.0")[0], response.Ok)
        client.uninstall("app:1.0.0")
        runtime.assert_no_leak(before)
    assert failed >= 1
    assert "Traceback" not in runtime.text()
    runtime.stop()
