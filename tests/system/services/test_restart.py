"""Automatic restarts, on a real runtime: policies, delays, limits, and what ends them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState, Wanted, error, notification, response
from northstar.api.status import Status
from northstar.client import blocking
from northstar.model import Container, Exited, ExitStatus, Signalled
from tests.system.containers import install, refused
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, wait_until

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

MIB = 2**20
LIMITED_MEMORY = {"memory_hard_limit": 16 * MIB, "memory_swap_limit": 16 * MIB}


def restart(policy: str = "on-failure", **fields: Any) -> dict[str, Any]:
    """Return a section with short delays, unless `fields` has others."""
    return {"restart": {"policy": policy, "delay": "20ms", "max_delay": "40ms", **fields}}


SLOW = restart("always", delay="1h", max_delay="1h")


def status(client: blocking.Client, container: str = "app") -> Status:
    (result,) = client.status(container)
    assert isinstance(result, response.StatusOk), result
    return result.status


def wait_state(client: blocking.Client, state: ContainerState, container: str = "app") -> Status:
    wait_until(lambda: status(client, container).state is state, f"{container} is {state.value}")
    return status(client, container)


# Which ends are followed by a restart.


@pytest.mark.parametrize(
    ("words", "policy", "reason", "restarted"),
    [
        ("exit 0", "on-failure", "exit 0", False),
        ("exit 0", "always", "exit 0", True),
        ("exit 0", "never", "exit 0", False),
        ("exit 1", "on-failure", "exit 1", True),
        ("exit 1", "always", "exit 1", True),
        ("exit 1", "never", "exit 1", False),
        ("raise 11", "on-failure", "SIGSEGV", True),
        ("raise 11", "never", "SIGSEGV", False),
    ],
)
def test_the_policy(
    runtime: RuntimeProcess, payload: Path, words: str, policy: str, reason: str, restarted: bool
) -> None:
    service = restart(policy, delay="1h", max_delay="1h")
    app = install(runtime, payload, args=words, service=service)
    with runtime.client() as client:
        client.start(app)
        ended = (ContainerState.BACKOFF, ContainerState.FAILED, ContainerState.INSTALLED)
        wait_until(lambda: status(client).state in ended, "the run has ended")
        found = status(client)
        if restarted:
            assert (found.state, found.wanted) == (ContainerState.BACKOFF, Wanted.UP)
            assert found.next is not None
        else:
            success = reason == "exit 0"
            state = ContainerState.INSTALLED if success else ContainerState.FAILED
            assert (found.state, found.wanted) == (state, Wanted.DOWN)
        assert found.reason == reason
        runtime.wait_log(rf"State of app:1\.0\.0: {found.state.value} \({reason}\)")


@pytest.mark.vm  # The kernel counts in other files with cgroup v2.
@pytest.mark.parametrize(("words", "reason"), [("memory 64", "oom"), ("raise 9", "SIGKILL")])
def test_the_reason_of_a_sigkill(
    runtime: RuntimeProcess, payload: Path, words: str, reason: str
) -> None:
    cgroups = {"memory": LIMITED_MEMORY}
    app = install(runtime, payload, args=words, service=SLOW, cgroups=cgroups)
    with runtime.client() as client:
        client.start(app)
        found = wait_state(client, ContainerState.BACKOFF)
        assert (found.reason, found.last) == (reason, Signalled(9))
    runtime.wait_log(rf"State of app:1\.0\.0: backoff \({reason}\)")


def test_a_missing_resource_is_waited_for(payload: Path, stored: Any, boot: Any) -> None:
    mounts = {"/lib": {"type": "resource", "name": "lib", "version": ">=1", "dir": "/"}}
    stored("app", "pause", mounts=mounts, service=restart())
    runtime = boot()
    with runtime.client() as client:
        wait_until(lambda: status(client).restarts >= 2, "it is tried again")
        install(runtime, payload, "lib", init=None)
        wait_state(client, ContainerState.READY)
        assert status(client).wanted is Wanted.UP


def test_a_failing_start_request_is_not_repeated(runtime: RuntimeProcess, payload: Path) -> None:
    app = install(runtime, payload, init="/absent", service=restart("always"))
    with runtime.client() as client:
        assert isinstance(refused(lambda: client.start(app)), error.StartContainerFailed)
        found = status(client)
        assert (found.state, found.wanted, found.run) == (ContainerState.FAILED, Wanted.DOWN, 1)


# Delays.


@pytest.mark.timeout(60 * PATIENCE)
def test_the_delays_of_eight_restarts(runtime: RuntimeProcess, payload: Path) -> None:
    """Each start comes at its time: never before it, and not later than a tenth of it."""
    service = restart(delay="50ms", max_delay="2s")
    app = install(runtime, payload, args="exit 1", service=service)
    with runtime.client() as client:
        client.start(app)
        wait_until(lambda: status(client).restarts >= 8, "eight restarts")
        client.stop(app)
    # The times of the runtime's log: this process may notice a change late.
    line = r"^(\S+)Z INFO +runtime: State of app:1\.0\.0: (backoff|starting)(?:.* in ([\d.]+)s)?$"
    found = re.findall(line, runtime.text(), re.MULTILINE)[1:17]
    assert [state for _, state, _ in found] == ["backoff", "starting"] * 8
    times = [datetime.fromisoformat(when) for when, _, _ in found]
    for number in range(8):
        delay = min(2.0, 0.05 * 2**number)
        assert found[2 * number][2] == f"{delay:.1f}"
        measured = (times[2 * number + 1] - times[2 * number]).total_seconds()
        assert delay * 0.9 <= measured < delay * 1.1 + 0.1 * PATIENCE, (number, found)


def test_a_long_run_resets_the_delay(runtime: RuntimeProcess, payload: Path) -> None:
    service = restart(delay="10ms", max_delay="1h", factor=10, reset_after="200ms")
    app = install(runtime, payload, args="sleep 0.3 ; exit 1", service=service)
    with runtime.client() as client:
        client.start(app)
        # Without a reset the fifth delay would be 100 s.
        wait_until(lambda: status(client).restarts >= 5, "five restarts")
        client.stop(app)


@pytest.mark.parametrize("critical", [False, True])
def test_the_limit(stored: Any, boot: Any, critical: bool) -> None:
    service = restart(limit=3, interval="1h")
    stored("app", "exit 3", autostart="critical" if critical else "relaxed", service=service)
    runtime = boot()
    if critical:
        runtime.wait_exit(code=1)
        assert "the critical container app:1.0.0 exited with code 3" in runtime.text()
    else:
        with runtime.client() as client:
            found = wait_state(client, ContainerState.FAILED)
            assert (found.restarts, found.run, found.wanted) == (3, 4, Wanted.DOWN)
            assert found.reason == "exit 3, 3 restarts within 3600s"
        runtime.stop()
    assert runtime.text().count("Container app:1.0.0 exited with status Exit(3)") == 4 or critical


# What ends it.


@pytest.mark.parametrize(
    ("number", "expected"), [(9, "installed"), (15, "installed"), (1, "backoff")]
)
def test_a_kill_with_the_policy_always(
    runtime: RuntimeProcess, payload: Path, number: int, expected: str
) -> None:
    app = install(runtime, payload, args="pause", service=SLOW)
    with runtime.client() as client:
        client.start(app)
        client.kill(app, number)
        found = wait_state(client, ContainerState(expected))
        assert found.last == Signalled(number)
        assert found.wanted is (Wanted.UP if expected == "backoff" else Wanted.DOWN)


@pytest.mark.parametrize("how", ["stop", "kill", "uninstall", "umount"])
def test_in_back_off(runtime: RuntimeProcess, payload: Path, how: str) -> None:
    app = install(runtime, payload, args="exit 1", service=SLOW)
    with runtime.client() as client:
        client.start(app)
        wait_state(client, ContainerState.BACKOFF)
        if how == "stop":
            assert client.stop(app).killed is False
            assert status(client).state is ContainerState.INSTALLED
        elif how == "kill":
            client.kill(app)
            assert status(client).state is ContainerState.INSTALLED
        elif how == "uninstall":
            client.uninstall(app)
            assert client.list() == ()
        else:
            client.umount(app)
            assert client.inspect(app).mounted is False
            assert status(client).state is ContainerState.BACKOFF
            # The next start mounts it again.
            client.start(app, arguments=("pause",))
            assert status(client).state is ContainerState.READY


def test_a_start_of_another_version_ends_the_back_off(
    runtime: RuntimeProcess, payload: Path
) -> None:
    app = install(runtime, payload, args="exit 1", service=SLOW)
    newer = install(runtime, payload, version="2.0.0", args="pause", service=SLOW)
    with runtime.client() as client:
        client.start(app)
        wait_state(client, ContainerState.BACKOFF, app)
        client.start(newer)
        assert status(client, app).wanted is Wanted.DOWN
        assert status(client, newer).state is ContainerState.READY


def test_a_fork_bomb_that_ignores_the_signal(runtime: RuntimeProcess, payload: Path) -> None:
    """It is never ready, so it is stopped; then all its processes are gone, and it starts again."""
    service = {
        **restart("always"),
        "notify": "/run/notify",
        "ready": {"probe": "notify", "timeout": "300ms"},
        "stop": {"timeout": "200ms"},
    }
    pids = {"pids": {"max": 30}}
    app = install(
        runtime, payload, args="ignore TERM ; bomb ; pause", service=service, cgroups=pids
    )
    with runtime.client(subscribe=True) as client:
        client.start(app)
        exits: list[ExitStatus] = []
        for event in client.notifications(timeout=TIMEOUT):
            if isinstance(event, notification.Exit):
                exits.append(event.status)
            elif isinstance(event, notification.Started) and len(exits) == 2:
                break
        assert exits == [Signalled(9)] * 2
        assert client.stop(app, 0.1).killed
        assert status(client).state is ContainerState.INSTALLED
    runtime.wait_log(r"State of app:1\.0\.0: stopping \(not ready within 300ms\)")


# Clients of 0.9.2.


def test_a_plain_client_sees_each_run(runtime: RuntimeProcess, payload: Path) -> None:
    app = Container.parse(install(runtime, payload, args="exit 5", service=restart()))
    with runtime.client(subscribe=True, extended=False) as client:
        client.start(app)
        seen = []
        for event in client.notifications(timeout=TIMEOUT):
            seen.append(event)
            if len(seen) == 8:
                break
    expected = [notification.Started(app), notification.Exit(app, Exited(5))]
    assert seen == expected * 4
    with runtime.client() as client:
        client.stop(app)
