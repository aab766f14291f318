"""Processes that SIGKILL does not end: frozen ones, and those that wait for a file system.

Processes in a frozen cgroup of version 1 are in state D, as those that wait for an unresponsive
device. A FUSE file system without a server blocks every process that accesses it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.client import StillRunningError
from northstar.model import NorthstarError, Signalled
from tests.system import host
from tests.system.containers import install, pid_of
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, wait_until
from tests.system.hung import hang, waits_for_fuse
from tests.unit.client.peer import CLIENTS

FREEZER = Path("/sys/fs/cgroup/freezer")
NONE = "this kernel has no freezer of cgroup version 1"

MAY_SKIP = (NONE,)
MAY_SKIP_IN_VM = (NONE,)

pytestmark = pytest.mark.root


@pytest.fixture
def freeze() -> Iterator[Callable[..., Callable[[], None]]]:
    """Freeze a process and its future children; return a function that thaws them."""
    if not (FREEZER / "tasks").exists():
        pytest.skip(NONE)
    cgroup = FREEZER / f"northstar-test-{os.getpid()}"
    cgroup.mkdir()

    def thaw() -> None:
        (cgroup / "freezer.state").write_text("THAWED")

    def freeze(*pids: int) -> Callable[[], None]:
        for pid in pids:
            (cgroup / "cgroup.procs").write_text(str(pid))
        (cgroup / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (cgroup / "freezer.state").read_text() == "FROZEN\n", "it is frozen")
        return thaw

    try:
        yield freeze
    finally:
        thaw()
        wait_until(lambda: _rmdir(cgroup), "the cgroup is empty")


def _rmdir(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()


def everything_of(runtime: RuntimeProcess, container: str) -> list[int]:
    with runtime.client() as client:
        init = pid_of(client, container)
    return [init, *host.descendants(init)]


def test_an_unkillable_container_delays_no_others(
    runtime: RuntimeProcess, payload: Path, freeze: Any
) -> None:
    frozen = install(runtime, payload, "frozen", args="fork ; pause")
    other = install(runtime, payload, "other", args="pause")
    before = runtime.snapshot()
    with runtime.client() as client:
        client.start(frozen)
        thaw = freeze(*everything_of(runtime, frozen))
        client.kill(frozen, signal.SIGKILL)
        # It has not exited, so start, unmount and uninstall are refused.
        assert client.inspect(frozen).process is not None
        for refused in (client.start, client.uninstall):
            with pytest.raises(api.RefusedError):
                refused(frozen)
        # Other containers work.
        client.start(other)
        client.kill(other, signal.SIGKILL)
        wait_until(lambda: client.inspect(other).process is None, "the other container has exited")
        thaw()
        wait_until(lambda: client.inspect(frozen).process is None, "it has ended")
        runtime.wait_log("Process frozen:1.0.0 exited")
        client.umount(frozen)
        client.umount(other)
    runtime.assert_no_leak(before)


@pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])
@pytest.mark.parametrize("subscribe", [True, False])
def test_stopping_an_unkillable_container_names_its_process(
    runtime: RuntimeProcess, payload: Path, freeze: Any, kind: Any, subscribe: bool
) -> None:
    frozen = install(runtime, payload, "frozen", args="pause")
    before = runtime.snapshot()
    with kind.connect(runtime.url, subscribe=subscribe) as client:
        client.start("frozen")
        init, *rest = everything_of(runtime, frozen)
        thaw = freeze(init, *rest)
        with pytest.raises(StillRunningError, match=f"still holds its process {init}") as caught:
            client.stop("frozen", 0.05, kill_timeout=0.05)
        assert caught.value.pid == init
        thaw()
        wait_until(lambda: client.inspect(frozen).process is None, "it has ended")
        if subscribe:
            assert client.wait("frozen", TIMEOUT) == Signalled(9)
        client.umount("frozen")
    runtime.assert_no_leak(before)


@pytest.mark.long
def test_the_shutdown_does_not_wait_for_an_unkillable_container(
    make_runtime: Any, payload: Path, freeze: Any
) -> None:
    runtime = make_runtime(top='shutdown_timeout = "100ms"')
    frozen = install(runtime, payload, "frozen", args="pause")
    other = install(runtime, payload, "other", args="ignore TERM ; pause")
    with runtime.client() as client:
        client.start(frozen)
        client.start(other)
    init, *rest = everything_of(runtime, frozen)
    thaw = freeze(init, *rest)
    begun = time.monotonic()
    assert runtime.process is not None
    runtime.process.send_signal(signal.SIGTERM)
    assert runtime.process.wait(TIMEOUT) == 1
    assert time.monotonic() - begun < 8 * PATIENCE
    text = runtime.text()
    assert f"Cannot end frozen:1.0.0, processes and states: {init} (D), {rest[0]} (D)" in text
    last = text.splitlines()[-2:]
    assert last[0] == "error: frozen:1.0.0 could not be ended: the kernel holds its processes"
    assert last[1].startswith("hint: look for a frozen cgroup")
    assert "Container other:1.0.0 exited with status Signalled(SIGKILL)" in text
    assert "Umounted other:1.0.0" in text
    assert "Traceback" not in text
    # The next run starts while they still exist, and removes what it can.
    runtime._forget()
    runtime.start()
    text = runtime.text()[len(text) :]
    assert "Cannot remove a cgroup of an earlier run" in text
    thaw()
    wait_until(lambda: host.state(init) in (None, "Z"), "it has ended")
    again = install(runtime, payload, "frozen", args="pause")
    with runtime.client() as client:
        client.start(again)
    runtime.stop()


@pytest.mark.long
def test_a_start_that_hangs_ends_with_the_shutdown(
    runtime: RuntimeProcess, payload: Path, tmp_path: Path
) -> None:
    """Its init waits for a file system that does not answer."""
    source = tmp_path / "hung"
    bind = {"/data": {"type": "bind", "host": f"{source}/directory", "options": ""}}
    container = install(runtime, payload, "hung", mounts=bind)
    other = install(runtime, payload, "other", args="pause")
    device = hang(runtime, source)
    refusals: list[BaseException] = []

    def start() -> None:
        with runtime.client() as client:
            try:
                client.start(container)
            except (NorthstarError, OSError) as failure:
                refusals.append(failure)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        wait_until(
            lambda: any(map(waits_for_fuse, host.descendants(runtime.pid))), "the start hangs"
        )
        with runtime.client() as client:
            client.start(other)
        runtime.stop(timeout=2 * TIMEOUT)
    finally:
        os.close(device)
        thread.join()
    assert "1 operations do not end" in runtime.text()
    assert "Container other:1.0.0 exited with status Signalled(SIGTERM)" in runtime.text()
    assert len(refusals) == 1
    assert "Traceback" not in runtime.text()
