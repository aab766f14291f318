"""The runtime is killed while a container is in each of the ten states: the next boot is clean.

It starts from the manifests alone: no back-off, no count and nothing that was wanted is kept. In
`unhealthy` a container is stopped at once, so this state is observed as `stopping`.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from northstar.api import ContainerState, Wanted
from northstar.client import blocking
from northstar.model import NorthstarError
from tests.system.faults.intercept import Call, Interceptor
from tests.system.harness import RuntimeProcess, wait_until
from tests.system.services.test_order import READY
from tests.system.services.test_restart import restart, status, wait_state

pytestmark = pytest.mark.root

APP = "app:1.0.0"
FAST: dict[str, Any] = {"delay": "10ms", "max_delay": "1h", "factor": 10}
WATCHED = {"notify": "/run/notify", "stop": {"timeout": "1h"}}


class Case(NamedTuple):
    """How a container gets into a state: at the first boot, and again at the next one.

    Attributes:
        words: the commands of the payload.
        service: the section.
        state: the state in which the runtime is killed.
        reason: of this state.
    """

    words: str
    service: dict[str, Any]
    state: ContainerState
    reason: str = ""


CASES = {
    "installed": Case("exit 0", {}, ContainerState.INSTALLED, "exit 0"),
    "waiting": Case("pause", {"after": ["never"]}, ContainerState.WAITING, "for never"),
    "running": Case("pause", READY, ContainerState.RUNNING),
    "ready": Case("notify-open - ; notify READY=1 ; pause", READY, ContainerState.READY),
    "unhealthy": Case(
        "ignore TERM ; notify-open - ; notify WATCHDOG=trigger ; pause",
        WATCHED,
        ContainerState.STOPPING,
        "watchdog",
    ),
    "stopping": Case(
        "notify-open - ; notify STOPPING=1 ; pause", WATCHED, ContainerState.STOPPING, "by itself"
    ),
    "backoff": Case("exit 3", restart(**FAST), ContainerState.BACKOFF, "exit 3"),
    "failed": Case("exit 3", {}, ContainerState.FAILED, "exit 3"),
}


def others(stored: Callable[..., str]) -> None:
    """Store containers that a client starts or stops before the kill, and one never ready."""
    stored("never", "pause", service=READY)
    stored("stopped", "pause", service={"notify": "/run/notify"})
    stored("started", "pause", service={}, autostart=None)
    sockets = {"one": {"type": "stream", "mode": 0o600}}
    mounts = {"/data": {"type": "persist"}}
    stored("holder", "pause", service={"notify": "/run/notify"}, sockets=sockets, mounts=mounts)


def drive(client: blocking.Client) -> None:
    """Change what is wanted of the other containers."""
    client.stop("stopped")
    client.start("started")


def check_boot(runtime: RuntimeProcess) -> None:
    """Check that the other containers are as their manifests say."""
    with runtime.client() as client:
        for name, state, wanted, run in (
            ("never", ContainerState.RUNNING, Wanted.UP, 1),
            ("stopped", ContainerState.READY, Wanted.UP, 1),
            ("started", ContainerState.INSTALLED, Wanted.DOWN, 0),
            ("holder", ContainerState.READY, Wanted.UP, 1),
        ):
            found = wait_state(client, state, name)
            assert (found.wanted, found.run, found.restarts, found.last) == (wanted, run, 0, None)
    removed = runtime.wait_log("Removed what an earlier run left: (.*)").group(1)
    assert "1 socket (holder:1.0.0:one)" in removed
    (sockets,) = re.findall(r"notify sockets \((.*?)\)", removed)
    # That of `stopped` was removed when it was stopped.
    assert (
        {"holder:1.0.0", "never:1.0.0"}
        <= {*sockets.split(", ")}
        <= {*("holder:1.0.0", "never:1.0.0", APP)}
    )


@pytest.mark.parametrize("name", CASES)
def test_killed_in_state(stored: Any, boot: Any, name: str) -> None:
    case = CASES[name]
    others(stored)
    stored("app", case.words, service=case.service)
    runtime = boot()
    with runtime.client() as client:
        found = wait_state(client, case.state)
        if name == "backoff":
            wait_until(lambda: status(client).restarts == 3, "three restarts")
            found = wait_state(client, case.state)
        assert found.reason == case.reason
        drive(client)
    runtime.kill()
    runtime.start()
    check_boot(runtime)
    with runtime.client() as client:
        found = wait_state(client, case.state)
        if name == "backoff":
            # The first delay of a boot, not the fourth.
            assert found.restarts < 3
            assert found.next is not None
            assert found.next < 2e9
        else:
            run = 0 if case.state is ContainerState.WAITING else 1
            assert (found.run, found.restarts, found.reason) == (run, 0, case.reason)
        if case.state is ContainerState.STOPPING:
            client.kill("app", 9)
    runtime.stop()


class Hold:
    """Holds one call until `let_go` is set; `reached` is set when it is held."""

    def __init__(self, matches: Callable[[Call], bool]) -> None:
        self.armed, self.reached, self.let_go = (threading.Event() for _ in range(3))
        self._matches = matches

    def __call__(self, call: Call) -> None:
        if self.armed.is_set() and not self.let_go.is_set() and self._matches(call):
            self.reached.set()
            self.let_go.wait()


@contextlib.contextmanager
def unanswered(
    runtime: RuntimeProcess, request: Callable[[blocking.Client], object]
) -> Iterator[None]:
    """Make a request in a thread; the kill of the runtime ends it."""

    def make() -> None:
        with contextlib.suppress(NorthstarError, OSError), runtime.client() as client:
            request(client)

    thread = threading.Thread(target=make)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("state", ["starting", "removing"])
def test_killed_during_an_operation(stored: Any, boot: Any, store: Path, state: str) -> None:
    others(stored)
    stored("app", "pause", service=restart("always"), autostart=None)
    starts = state == "starting"

    def request(client: blocking.Client) -> None:
        client.start(APP) if starts else client.uninstall(APP)

    def matches(call: Call) -> bool:
        if starts or call.name == "mount":
            return starts and call.name == "mount"
        return call.path(1 if call.name == "unlinkat" else 0).startswith(str(store))

    hold = Hold(matches)
    with Interceptor(["mount", "unlink", "unlinkat"]) as interceptor:
        # The mounts of a start are made by a child of the runtime.
        if starts:
            interceptor.hold = hold
        else:
            interceptor.decide = hold
        runtime = boot(wrap=interceptor.wrap, pass_fds=interceptor.pass_fds)
        with runtime.client() as client:
            wait_state(client, ContainerState.READY, "holder")
            drive(client)
            hold.armed.set()
            with unanswered(runtime, request):
                wait_until(hold.reached.is_set, "it is held")
                assert status(client).state is ContainerState(state)
                runtime.kill()
        hold.let_go.set()
        runtime.start()
        check_boot(runtime)
        with runtime.client() as client:
            found = status(client)
        assert (found.state, found.wanted) == (ContainerState.INSTALLED, Wanted.DOWN)
        assert (found.run, found.restarts, found.last) == (0, 0, None)
        runtime.stop()
