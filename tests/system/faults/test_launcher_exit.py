"""The launcher that all containers share: its end, and its mount namespace."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.model import Signalled
from tests.system import host
from tests.system.containers import exit_of, install, pid_of
from tests.system.harness import OLDER, RuntimeProcess, wait_until

pytestmark = pytest.mark.root


def below(runtime: RuntimeProcess) -> list[tuple[str | None, str]]:
    """Return state and command of the runtime's children, ordered by pid."""
    found = host.descendants(runtime.pid)
    return [(host.state(pid), host.command(pid)) for pid in sorted(found)]


def mount_points(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return {line.split()[4] for line in lines}


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
        expected = 2 * len(containers) + 1
        wait_until(lambda: len(below(runtime)) == expected, "an init and a payload each")
        assert "Z" not in [state for state, _ in below(runtime)]
    runtime.stop()


def test_a_killed_launcher(make_runtime: Callable[..., Any], payload: Path) -> None:
    """No container ends, later ones start, and images can be unmounted."""
    runtime: RuntimeProcess = make_runtime()
    containers = [install(runtime, payload, f"app{number}", args="pause") for number in range(3)]
    with runtime.client(subscribe=True) as client:
        for container in containers:
            client.mount(container)
        client.start(containers[0])
        killed = runtime.launcher
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: host.state(killed) is None, "it is reaped")
        for container in containers[1:]:
            client.start(container)
        assert runtime.launcher != killed
        for container in containers:
            assert host.state(pid_of(client, container)) is not None
            client.kill(container, 9)
            assert exit_of(client, container) == Signalled(9)
            client.umount(container)
    runtime.stop()


@pytest.mark.skipif(OLDER, reason="open_tree(2) is refused there")
def test_the_launcher_has_no_image_and_a_container_only_its_own(
    make_runtime: Callable[..., Any], payload: Path
) -> None:
    runtime: RuntimeProcess = make_runtime()
    containers = [install(runtime, payload, f"app{number}", args="pause") for number in range(2)]
    with runtime.client() as client:
        for container in containers:
            client.start(container)
        images = mount_points(runtime.pid) - mount_points(runtime.launcher)
        assert sorted(path.rpartition("/")[2] for path in images) == sorted(map(str, containers))
        for container in containers:
            inside = mount_points(pid_of(client, container))
            assert "/" in inside
            assert not any("app" in path for path in inside)
    runtime.stop()
