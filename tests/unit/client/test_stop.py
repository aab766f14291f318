"""Stopping a container: the requests of both clients, and how they interpret the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error, notification
from northstar.client import DisconnectedError, StillRunningError, Stopped
from northstar.model import Container, Exited, Signalled
from tests.unit.client.peer import CLIENTS, Peer, Wire

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])

C = Container.parse("a:1.0.0")
ID = {"container": "a:1.0.0"}
TERM = {"kill": {**ID, "signal": 15}}
KILL = {"kill": {**ID, "signal": 9}}
INSPECT = {"inspect": ID}
OK = {"response": {"kill": {"ok": ID}}}
STARTED = {"notification": {"started": "a:1.0.0"}}
EXIT = {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 3}}]}}
OTHER = {"notification": {"exit": ["a:2.0.0", {"exit": {"code": 0}}]}}
KILLED = {"notification": {"exit": ["a:1.0.0", {"signalled": {"signal": 9}}]}}
NOT_STARTED = {"response": {"kill": {"error": {**ID, "error": {"stop_container_not_started": ID}}}}}
UNKNOWN = {"response": {"inspect": {"error": {**ID, "error": {"invalid_container": ID}}}}}


def seen(pid: int | None, uptime: int = 5) -> Any:
    process = pid and {"pid": pid, "uptime": uptime, "statistics": {}}
    data = {"manifest": {}, "repository": "mem", "mounted": True, "process": process}
    return {"response": {"inspect": {"ok": {**ID, "data": data}}}}


def stop(
    kind: Any, tmp_path: Path, script: Callable[[Wire], None], *, subscribe: bool, timeout: float
) -> tuple[Stopped, list[notification.Notification]]:
    """Stop against a script; return also the notifications that are still in the queue."""

    def whole(wire: Wire) -> None:
        wire.greet(subscribe)
        script(wire)
        wire.answer("shutdown", {"response": "shutdown"})

    with Peer(tmp_path, whole) as peer, kind.connect(peer.url, subscribe=subscribe) as client:
        done = client.stop("a:1.0.0", timeout)
        client.shutdown()
        left = [*client.notifications()] if subscribe else []
    assert isinstance(done, Stopped)
    return done, left


@pytest.mark.parametrize(
    "messages",
    [
        (OK, EXIT),
        (EXIT, OK),
        # An exit that was announced earlier does not count, nor that of another container.
        (EXIT, STARTED, OTHER, OK, EXIT),
        (EXIT, STARTED, EXIT, OK),
    ],
    ids=["answer-first", "exit-first", "earlier-exit", "both-before"],
)
def test_stop_by_the_notification(kind: Any, tmp_path: Path, messages: tuple[Any, ...]) -> None:
    done, left = stop(
        kind, tmp_path, lambda wire: wire.answer(TERM, *messages), subscribe=True, timeout=9
    )
    assert (done.killed, done.status) == (False, Exited(3))
    assert len(left) == sum("notification" in message for message in messages)


def test_killed_when_it_does_not_end(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(TERM, OTHER, OK)
        wire.answer(KILL, OK, KILLED)

    done, _ = stop(kind, tmp_path, script, subscribe=True, timeout=0.05)
    assert done == Stopped(True, Signalled(9))


def test_it_ends_just_before_it_is_killed(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(TERM, OK)
        wire.answer(KILL, EXIT, NOT_STARTED)

    done, _ = stop(kind, tmp_path, script, subscribe=True, timeout=0.05)
    assert (done.killed, done.status) == (False, Exited(3))


@pytest.mark.parametrize("end", [seen(None), seen(8), seen(7, 1), UNKNOWN])
def test_stop_by_inspecting(kind: Any, tmp_path: Path, end: Any) -> None:
    """It has ended if it does not run, if another process runs, or if it is uninstalled."""

    def script(wire: Wire) -> None:
        wire.answer(INSPECT, seen(7))
        wire.answer(TERM, OK)
        wire.answer(INSPECT, seen(7, 6))
        wire.answer(INSPECT, end)

    done, _ = stop(kind, tmp_path, script, subscribe=False, timeout=9)
    assert done == Stopped(False, None)


def test_sigkill_confirmed_by_inspecting(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, seen(7))
        wire.answer(TERM, OK)
        wire.answer(INSPECT, seen(7))
        wire.answer(KILL, OK)
        wire.answer(INSPECT, seen(None))

    done, _ = stop(kind, tmp_path, script, subscribe=False, timeout=0)
    assert done == Stopped(True, None)


def test_stopping_a_container_that_does_not_run_is_refused(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(False)
        wire.answer(INSPECT, seen(None))
        wire.answer(TERM, NOT_STARTED)

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(api.RefusedError) as caught,
    ):
        client.stop("a:1.0.0", 9)
    assert caught.value.error == error.StopContainerNotStarted(C)


def test_the_connection_ends(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(True)
        wire.answer(TERM, OK)

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url, subscribe=True) as client,
        pytest.raises(DisconnectedError),
    ):
        client.stop("a:1.0.0", 9)


DENIED = {"response": {"permission_denied": INSPECT}}


@pytest.mark.parametrize("subscribe", [True, False])
def test_an_error_names_the_process_that_survives_sigkill(
    kind: Any, tmp_path: Path, subscribe: bool
) -> None:
    def script(wire: Wire) -> None:
        wire.greet(subscribe)
        if not subscribe:
            wire.answer(INSPECT, seen(7))
        wire.answer(TERM, OK)
        if not subscribe:
            wire.answer(INSPECT, seen(7))
        wire.answer(KILL, OK)
        if not subscribe:
            wire.answer(INSPECT, seen(7))
        wire.answer(INSPECT, seen(7))
        # The connection can still be used.
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url, subscribe=subscribe) as client:
        with pytest.raises(StillRunningError) as caught:
            client.stop("a:1.0.0", 0, kill_timeout=0)
        assert client.ident() == C
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.container, caught.value.pid) == (C, 7)
    assert str(caught.value).startswith(
        "a:1.0.0 has not ended within 0 s of SIGKILL: the kernel still holds its process 7; "
    )
    assert caught.value.hint is not None


def test_without_permission_the_process_is_not_named(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(True)
        wire.answer(TERM, OK)
        wire.answer(KILL, OK)
        wire.answer(INSPECT, DENIED)
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url, subscribe=True) as client,
        pytest.raises(StillRunningError, match="the kernel still holds its processes") as caught,
    ):
        client.stop("a:1.0.0", 0, kill_timeout=0)
    assert caught.value.pid is None


@pytest.mark.parametrize("answer", [seen(None), UNKNOWN])
def test_a_missing_exit_notification_is_no_error(kind: Any, tmp_path: Path, answer: Any) -> None:
    def script(wire: Wire) -> None:
        wire.answer(TERM, OK)
        wire.answer(KILL, OK)
        wire.answer(INSPECT, answer)

    def whole(wire: Wire) -> None:
        wire.greet(True)
        script(wire)
        wire.expect_end()

    with Peer(tmp_path, whole) as peer, kind.connect(peer.url, subscribe=True) as client:
        assert client.stop("a:1.0.0", 0, kill_timeout=0) == Stopped(True, None)
