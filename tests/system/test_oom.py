"""Containers that run out of memory: the kernel kills them, subscribers and the log report it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from northstar.api import notification
from northstar.model import Container, Signalled
from tests.system.containers import OK, exit_of, install, run
from tests.system.harness import TIMEOUT, RuntimeProcess

pytestmark = [pytest.mark.root, pytest.mark.vm]

MIB = 2**20
UNIFIED = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def test_a_container_above_its_limit_is_killed(runtime: RuntimeProcess, payload: Path) -> None:
    memory = {"memory_hard_limit": 16 * MIB, "memory_swap_limit": 16 * MIB, "oom_monitor": True}
    greedy = install(runtime, payload, args="memory 64", cgroups={"memory": memory})
    other = install(runtime, payload, "other", args="pause")
    seen: list[notification.Notification] = []
    with runtime.client(subscribe=True, extended=False) as client:
        client.start(other)
        client.start(greedy)
        for event in client.notifications(timeout=TIMEOUT):
            seen.append(event)
            if isinstance(event, notification.Exit):
                break
        # The other container is not affected.
        assert client.inspect(other).process is not None
    app = Container.parse(greedy)
    assert seen[:2] == [
        notification.Started(Container.parse(other)),
        notification.Started(app),
    ]
    assert seen[-1] == notification.Exit(app, Signalled(9))
    events = [event for event in seen if isinstance(event, notification.CGroup)]
    assert events == seen[2:-1] != []
    assert {event.container for event in events} == {app}
    last = events[-1].memory
    if UNIFIED:
        numbers = (last.low, last.high, last.max, last.oom, last.oom_kill)
        assert None not in numbers
        assert last.oom_kill is not None
        assert last.oom_kill >= 1
    else:
        assert last == notification.Memory(None, None, None, 1, None)
    runtime.wait_log(r"WARN\w* .*Process app:1\.0\.0 is out of memory$")
    runtime.wait_log(r"Container app:1\.0\.0 exited with status Signalled\(SIGKILL\)$")


def test_a_container_within_its_limit_has_no_event(runtime: RuntimeProcess, payload: Path) -> None:
    memory = {"memory_hard_limit": 64 * MIB, "oom_monitor": True}
    modest = install(runtime, payload, cgroups={"memory": memory})
    before = None
    with runtime.client(subscribe=True) as client:
        for _ in range(3):
            client.start(modest, arguments=("memory", "8"))
            assert exit_of(client, modest) == OK
            # The monitor's descriptors are closed with the container.
            before = before or runtime.snapshot()
            runtime.assert_no_leak(before)
    assert "out of memory" not in runtime.text()


def test_without_a_monitor_no_event_is_reported(runtime: RuntimeProcess, payload: Path) -> None:
    memory = {"memory_hard_limit": 16 * MIB, "memory_swap_limit": 16 * MIB, "oom_monitor": False}
    greedy = install(runtime, payload, cgroups={"memory": memory})
    assert run(runtime, greedy, "memory 64").status == Signalled(9)
    assert "out of memory" not in runtime.text()
