"""The launcher ends when the container is created, and is reaped then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.model import Signalled
from tests.system import host
from tests.system.containers import exit_of, install, pid_of
from tests.system.faults.intercept import Call, Interceptor
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until

pytestmark = pytest.mark.root


def below(runtime: RuntimeProcess) -> list[tuple[str | None, str]]:
    """Return state and command of the runtime's children, ordered by pid."""
    found = host.descendants(runtime.pid)
    return [(host.state(pid), host.command(pid)) for pid in sorted(found)]


def test_running_containers_keep_no_zombies(
    make_runtime: Callable[..., Any], payload: Path
) -> None:
    runtime: RuntimeProcess = make_runtime()
    with runtime.client() as client:
        containers = [
            install(runtime, payload, f"app{number}", args="pause") for number in range(8)
        ]
        for container in containers:
            client.start(container)
        wait_until(lambda: len(below(runtime)) == 2 * len(containers), "an init and a payload each")
        assert "Z" not in [state for state, _ in below(runtime)]
    runtime.stop()


@pytest.mark.parametrize("killed_first", [False, True])
def test_a_launcher_that_ends_late(
    make_runtime: Callable[..., Any], payload: Path, *, killed_first: bool
) -> None:
    """It is reaped once: when it ends, or with init, if init ends first."""
    held, released = threading.Event(), threading.Event()

    def hold(_call: Call) -> None:
        # Only the first one: it belongs to the launcher of a running container.
        if not held.is_set():
            held.set()
            released.wait(TIMEOUT)

    with Interceptor(["exit_group"]) as interceptor:
        runtime: RuntimeProcess = make_runtime(wrap=interceptor.wrap, pass_fds=interceptor.pass_fds)
        container = install(runtime, payload, args="pause")
        with runtime.client(subscribe=True) as client:
            client.mount(container)
            before = runtime.snapshot()
            interceptor.hold = hold
            client.start(container)
            assert held.is_set()
            init = pid_of(client, container)
            assert len(host.descendants(runtime.pid)) == 3
            if not killed_first:
                released.set()
                wait_until(lambda: len(host.descendants(runtime.pid)) == 2, "it is reaped")
            client.kill(container, 9)
            released.set()
            assert exit_of(client, container) == Signalled(9)
            assert host.state(init) is None
            runtime.assert_no_leak(before)
        runtime.stop()
