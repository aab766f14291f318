"""Waiting for the exit of a container: the requests of both clients, and the exit they return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error, notification
from northstar.client import DisconnectedError, PermissionDeniedError, StillRunningError
from northstar.model import Container, Exited, InvalidValueError, Signalled
from tests.unit.client.peer import CLIENTS, Peer, Wire
from tests.unit.client.test_stop import (
    DENIED,
    EXIT,
    ID,
    INSPECT,
    KILLED,
    OTHER,
    STARTED,
    UNKNOWN,
    C,
    seen,
)

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])

START: dict[str, Any] = {"start": {**ID, "init": None, "arguments": [], "environment": {}}}
OK = {"response": {"start": {"ok": ID}}}
IDENT = {"response": {"ident": "a:1.0.0"}}


def talk(
    kind: Any, tmp_path: Path, script: Callable[[Wire], None], act: Callable[[Any], Any]
) -> Any:
    """Return the result of `act` on a client that subscribed, against a script."""

    def whole(wire: Wire) -> None:
        wire.greet(True)
        script(wire)
        wire.expect_end()

    with Peer(tmp_path, whole) as peer, kind.connect(peer.url, subscribe=True) as client:
        return act(client)


def started_and_waited(client: Any) -> Any:
    client.start("a:1.0.0")
    return client.wait("a:1.0.0", 9)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([STARTED], [EXIT]),
        # It ends before its start is answered, or before the client waits.
        ([STARTED, EXIT], []),
        # The exits of another version, and of an earlier run, do not count.
        ([KILLED, STARTED, OTHER], [OTHER, EXIT]),
    ],
    ids=["while-waiting", "at-once", "others"],
)
def test_an_exit_after_a_start(
    kind: Any, tmp_path: Path, before: list[Any], after: list[Any]
) -> None:
    def script(wire: Wire) -> None:
        wire.answer(START, *before, OK, *after)

    assert talk(kind, tmp_path, script, started_and_waited) == Exited(3)


def test_a_start_that_is_notified_after_its_answer(kind: Any, tmp_path: Path) -> None:
    """The exit of the run before does not count as that of this one."""

    def script(wire: Wire) -> None:
        wire.answer("ident", STARTED, KILLED, IDENT)
        wire.answer(START, OK)
        wire.answer(INSPECT, STARTED, seen(7), EXIT)

    def act(client: Any) -> Any:
        client.ident()
        return started_and_waited(client)

    assert talk(kind, tmp_path, script, act) == Exited(3)


@pytest.mark.parametrize(
    "messages",
    [
        (seen(7), EXIT),
        (EXIT, seen(None)),
        (EXIT, STARTED, seen(8)),
        # Another client starts it again at once: that exit is not the next one.
        (seen(7), EXIT, STARTED, KILLED),
    ],
    ids=["runs", "ends", "ends-and-starts", "ends-twice"],
)
def test_one_that_ran_before_the_connection(
    kind: Any, tmp_path: Path, messages: tuple[Any, ...]
) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, *messages)

    assert talk(kind, tmp_path, script, lambda c: c.wait("a:1.0.0", 9)) == Exited(3)


def test_one_that_has_exited_already(kind: Any, tmp_path: Path) -> None:
    """Its last status is kept while it is installed, even if the notifications were read."""

    def script(wire: Wire) -> None:
        wire.answer("ident", STARTED, EXIT, STARTED, KILLED, IDENT)
        wire.answer("ident", {"notification": {"uninstall": "a:1.0.0"}}, IDENT)
        wire.answer(INSPECT, UNKNOWN)

    def act(client: Any) -> None:
        client.ident()
        notifications = client.notifications()
        taken = [next(notifications) for _ in range(4)]
        assert taken[-1] == notification.Exit(C, Signalled(9))
        for _ in range(2):
            assert client.wait("a:1.0.0", 9) == Signalled(9)
        client.ident()
        with pytest.raises(api.RefusedError) as caught:
            client.wait("a:1.0.0", 9)
        assert caught.value.error == error.InvalidContainer(C)

    talk(kind, tmp_path, script, act)


def test_one_that_does_not_run_is_refused(kind: Any, tmp_path: Path) -> None:
    def act(client: Any) -> None:
        with pytest.raises(api.RefusedError) as caught:
            client.wait("a:1.0.0")
        assert caught.value.error == error.StopContainerNotStarted(C)

    talk(kind, tmp_path, lambda wire: wire.answer(INSPECT, seen(None)), act)


def test_the_time_is_up(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, seen(7))
        wire.answer(INSPECT, seen(7), EXIT)

    def act(client: Any) -> None:
        with pytest.raises(StillRunningError, match=r"has not exited within 0\.05 s") as late:
            client.wait("a:1.0.0", 0.05)
        assert (late.value.container, late.value.pid) == (C, 7)
        assert isinstance(late.value, TimeoutError)
        # Waiting again works, and no exit is lost.
        assert client.wait("a:1.0.0", 9) == Exited(3)
        assert next(client.notifications()) == notification.Exit(C, Exited(3))

    talk(kind, tmp_path, script, act)


def test_without_the_permission_to_inspect(kind: Any, tmp_path: Path) -> None:
    """It is needed only if no notification has reported that the container runs."""

    def script(wire: Wire) -> None:
        wire.answer(INSPECT, DENIED)
        wire.answer("ident", STARTED, IDENT, EXIT)

    def act(client: Any) -> None:
        with pytest.raises(PermissionDeniedError, match="'inspect'"):
            client.wait("a:1.0.0")
        client.ident()
        assert client.wait("a:1.0.0") == Exited(3)

    talk(kind, tmp_path, script, act)


def test_the_connection_ends(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(True)
        wire.answer(INSPECT, seen(7))

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url, subscribe=True) as client,
        pytest.raises(DisconnectedError),
    ):
        client.wait("a:1.0.0")


def test_the_runtime_shuts_down_without_the_exit(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(True)
        wire.answer(INSPECT, seen(7), {"notification": "shutdown"})

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url, subscribe=True) as client,
        pytest.raises(DisconnectedError),
    ):
        client.wait("a:1.0.0", 9)


def test_it_needs_a_subscription(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(InvalidValueError, match="subscribe=True"),
    ):
        client.wait(Container.parse("a:1.0.0"))
