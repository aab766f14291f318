"""The shutdown with containers in each state, within its bound."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import ContainerState
from northstar.client import blocking
from northstar.model import NorthstarError
from tests.system.containers import install
from tests.system.harness import PATIENCE, RuntimeProcess, wait_until
from tests.system.services.test_order import READY
from tests.system.services.test_restart import restart, status, wait_state

pytestmark = pytest.mark.root

HOUR = {"delay": "1h", "max_delay": "1h"}
STUBBORN = "ignore TERM ; ready ; pause"


def timed_stop(runtime: RuntimeProcess) -> float:
    begun = time.monotonic()
    runtime.stop()
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("words", "service", "state"),
    [
        ("pause", READY, ContainerState.RUNNING),
        ("pause", {"notify": "/run/notify", "watchdog": "1h"}, ContainerState.READY),
        ("exit 1", restart(**HOUR), ContainerState.BACKOFF),
        ("exit 1", {}, ContainerState.FAILED),
        ("exit 0", {}, ContainerState.INSTALLED),
    ],
    ids=lambda value: value.value if isinstance(value, ContainerState) else "",
)
def test_in_each_state(
    stored: Any, boot: Any, words: str, service: dict[str, Any], state: ContainerState
) -> None:
    stored("app", words, service=service)
    stored("last", service={"after": ["app"]})
    runtime = boot()
    with runtime.client() as client:
        wait_state(client, state)
    assert timed_stop(runtime) < 5 * PATIENCE
    ended = runtime.text().partition("shutdown)")[2]
    assert "starting" not in ended
    assert "backoff" not in ended


def test_while_it_stops(stored: Any, boot: Any) -> None:
    stored("app", STUBBORN, service={"stop": {"timeout": "300ms"}})
    runtime = boot()
    runtime.wait_log('"do": "ready"')

    def stop() -> None:
        try:
            with runtime.client() as client:
                client.stop("app", 60.0)
        except (NorthstarError, OSError):
            pass

    client = threading.Thread(target=stop)
    client.start()
    runtime.wait_log("State of app:1.0.0: stopping")
    # The container has the shorter one of the two times.
    assert timed_stop(runtime) < 5 * PATIENCE
    client.join()
    assert "Killing app:1.0.0 with SIGKILL" in runtime.text()


def test_its_own_timeout(stored: Any, boot: Any) -> None:
    stored("quick", STUBBORN, service={"stop": {"timeout": "100ms"}})
    stored(
        "slow", "ignore INT ; ready ; pause", service={"stop": {"signal": "INT", "timeout": "1s"}}
    )
    runtime = boot(top='shutdown_timeout = "10s"')
    for name in ("quick", "slow"):
        runtime.wait_log(rf'{name}:1.0.0: .*"do": "ready"')
    assert 1.0 <= timed_stop(runtime) < 5 * PATIENCE
    text = runtime.text()
    assert "Killing slow:1.0.0 with SIGINT" in text
    assert text.index("Killing quick:1.0.0 with SIGKILL") < text.index(
        "Killing slow:1.0.0 with SIGKILL"
    )


def test_the_limit(stored: Any, boot: Any) -> None:
    """No timeout of a manifest and no order prolongs it."""
    for number in range(3):
        after = [f"app{number - 1}"] if number else []
        service = {"stop": {"timeout": "1h"}, "after": after}
        stored(f"app{number}", STUBBORN, service=service)
    stored("plain", STUBBORN)
    runtime = boot(top='shutdown_limit = "700ms"')
    for name in ("app0", "app1", "app2", "plain"):
        runtime.wait_log(rf'{name}:1.0.0: .*"do": "ready"')
    assert 0.7 <= timed_stop(runtime) < 6 * PATIENCE
    text = runtime.text()
    assert "Killing app2:1.0.0 with SIGTERM" in text
    assert "Killing app0:1.0.0 with SIGTERM" not in text
    for name in ("app0", "app1", "app2", "plain"):
        assert f"Killing {name}:1.0.0 with SIGKILL" in text


def test_containers_without_service_as_before(stored: Any, boot: Any) -> None:
    stored("plain", STUBBORN)
    runtime = boot(top='shutdown_timeout = "200ms"')
    runtime.wait_log('"do": "ready"')
    assert 0.2 <= timed_stop(runtime) < 3 * PATIENCE
    assert "State of" not in runtime.text()


def test_nothing_starts_in_a_shutdown(stored: Any, boot: Any) -> None:
    """Crash loops, and clients that restart, until the console is closed."""
    for number in range(4):
        service = {"restart": {"policy": "always", "delay": "1ms", "max_delay": "1ms"}}
        stored(f"loop{number}", "exit 1", service=service)
    stored("app", service={})
    runtime = boot()
    stop = threading.Event()

    def restart_again() -> None:
        try:
            with runtime.client() as client:
                while not stop.is_set():
                    again(client)
        except (NorthstarError, OSError):
            pass

    def again(client: blocking.Client) -> None:
        try:
            client.restart("app")
        except api.RefusedError:
            stop.wait(0.001)

    thread = threading.Thread(target=restart_again)
    thread.start()
    with runtime.client() as client:
        wait_until(lambda: status(client, "loop0").restarts > 5, "it restarts")
    assert timed_stop(runtime) < 8 * PATIENCE
    stop.set()
    thread.join()


def test_a_restart_is_answered_in_a_shutdown(stored: Any, boot: Any) -> None:
    stored("app", STUBBORN, service={"stop": {"timeout": "500ms"}})
    runtime = boot()
    runtime.wait_log('"do": "ready"')
    answers: list[str] = []

    def restart_it() -> None:
        with runtime.client() as client:
            try:
                client.restart("app")
            except NorthstarError as failure:
                answers.append(str(failure))

    thread = threading.Thread(target=restart_it)
    thread.start()
    runtime.wait_log("State of app:1.0.0: stopping")
    runtime.stop()
    thread.join()
    assert answers == ["app:1.0.0 is not started again: the runtime is shutting down"]


def test_install_in_memory_of_this_file(boot: Any, payload: Path) -> None:
    """A container that was installed by a client ends in the same order."""
    runtime = boot()
    install(runtime, payload, "one", args="pause", service={})
    install(runtime, payload, "two", args="pause", service={"after": ["one"]})
    with runtime.client() as client:
        client.start("one")
        client.start("two")
    runtime.stop()
    text = runtime.text()
    assert text.index("Process two:1.0.0 exited") < text.index("Killing one:1.0.0")
