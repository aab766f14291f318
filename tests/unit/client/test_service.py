"""The feature `service`: the requests of both clients, and what they do on an older runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import ContainerState, Status, Wanted, error, notification, response
from northstar.client import (
    MissingFeatureError,
    NoAnswerError,
    NotReachedError,
    PermissionDeniedError,
    StillRunningError,
    Stopped,
    WaitTimeoutError,
)
from northstar.model import Container, Exited, InvalidValueError, Signalled
from tests.unit.client.peer import CLIENTS, Peer, Wire

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])

C = Container.parse("a:1.0.0")
ID = {"container": "a:1.0.0"}
INSPECT = {"inspect": ID}
STATUS = {"status": {"containers": ["a:1.0.0"]}}
START: dict[str, Any] = {"start": {**ID, "init": None, "arguments": [], "environment": {}}}
STARTED = {"response": {"start": {"ok": ID}}}
EXIT = {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 3}}]}}
INVALID = {"error": {**ID, "error": {"invalid_container": ID}}}


def status(state: str, run: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "wanted": "down" if state in ("installed", "failed") else "up",
        "state": state,
        "since": 0,
        "reason": "",
        "run": run,
        "restarts": 0,
        "next": None,
        "text": None,
        "last": None,
        **changes,
    }


def answer(state: str, run: int = 1, **changes: Any) -> Any:
    return {"response": {"status": [{"ok": {**ID, "status": status(state, run, **changes)}}]}}


def state(name: str, run: int = 1, container: str = "a:1.0.0", **changes: Any) -> Any:
    return {"notification": {"state": [container, status(name, run, **changes)]}}


def inspected(pid: int | None, **service: Any) -> Any:
    process = pid and {"pid": pid, "uptime": 5, "statistics": {}}
    manifest = {"service": service} if service else {}
    data = {"manifest": manifest, "repository": "r", "mounted": True, "process": process}
    return {"response": {"inspect": {"ok": {**ID, "data": data}}}}


def stopped(killed: bool) -> Any:
    return {"response": {"stop": {"ok": {**ID, "killed": killed}}}}


def talk(
    kind: Any,
    tmp_path: Path,
    script: Callable[[Wire], None],
    act: Callable[[Any], Any],
    *,
    subscribe: bool = True,
    features: tuple[str, ...] | None = ("service", "one-of-the-future"),
) -> Any:
    """Return the result of `act` on a client, against a script of a runtime with features."""

    def whole(wire: Wire) -> None:
        wire.greet(subscribe, features)
        script(wire)
        wire.expect_end()

    with Peer(tmp_path, whole) as peer, kind.connect(peer.url, subscribe=subscribe) as client:
        return act(client)


def test_features(kind: Any, tmp_path: Path) -> None:
    for features, expected in (
        (("service", "x"), {"service", "x"}),
        ((), set()),
        (None, set()),
    ):
        found = talk(kind, tmp_path, lambda _: None, features_of, features=features)
        assert found == expected
        (tmp_path / "console").unlink()


def features_of(client: Any) -> frozenset[str]:
    inner = getattr(client, "_inner", client)
    features: frozenset[str] = inner.features
    return features


OPERATIONS: list[tuple[str, Callable[[Any], Any]]] = [
    ("status", lambda c: c.status()),
    ("status of a name", lambda c: c.status("a")),
    ("restart", lambda c: c.restart("a")),
    ("wait_started", lambda c: c.wait_started("a")),
    ("wait_ready", lambda c: c.wait_ready("a:1.0.0")),
    ("start", lambda c: c.start("a", wait=True)),
]


@pytest.mark.parametrize(
    "operation", [act for _, act in OPERATIONS], ids=[n for n, _ in OPERATIONS]
)
@pytest.mark.parametrize("features", [None, (), ("x",)])
def test_an_older_runtime_is_sent_nothing(
    kind: Any, tmp_path: Path, operation: Callable[[Any], Any], features: Any
) -> None:
    with pytest.raises(MissingFeatureError) as caught:
        talk(kind, tmp_path, lambda _: None, operation, features=features)
    assert str(caught.value) == 'this runtime cannot do that: it has no feature "service"'
    assert caught.value.feature == "service"


def test_stop_on_an_older_runtime_sends_signals(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        kill = {"response": {"kill": {"ok": ID}}}
        wire.answer({"kill": {**ID, "signal": 15}}, kill, EXIT)

    done = talk(kind, tmp_path, script, lambda c: c.stop("a:1.0.0"), features=None)
    assert done == Stopped(False, Exited(3))


def test_status(kind: Any, tmp_path: Path) -> None:
    wire_status = status(
        "backoff", 6, reason="exit 1", next=9, text="t", last={"exit": {"code": 1}}
    )

    def script(wire: Wire) -> None:
        whole = {"ok": {**ID, "status": wire_status}}
        wire.answer({"status": {"containers": []}}, {"response": {"status": [whole, INVALID]}})
        wire.answer("list", {"response": {"list": ["a:1.0.0"]}})
        wire.answer(
            {"status": {"containers": ["b:1.0.0", "a:1.0.0"]}}, {"response": {"status": []}}
        )

    def act(client: Any) -> Any:
        results = client.status()
        assert client.status("b:1.0.0", "a") == ()
        return results

    found = Status(Wanted.UP, ContainerState.BACKOFF, 0, "exit 1", 6, 0, 9, "t", Exited(1))
    assert talk(kind, tmp_path, script, act) == (
        response.StatusOk(C, found),
        response.Failed(C, error.InvalidContainer(C)),
    )


@pytest.mark.parametrize("subscribe", [True, False])
@pytest.mark.parametrize(
    ("timeout", "wire_timeout"),
    [((), None), ((0,), 0), ((1.5,), 1_500_000_000), ((None,), 2**64 - 1), ((1e12,), 2**64 - 1)],
)
def test_stop(
    kind: Any, tmp_path: Path, subscribe: bool, timeout: tuple[Any, ...], wire_timeout: int | None
) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, inspected(7))
        before = [state("stopping"), EXIT] if subscribe else []
        wire.answer({"stop": {**ID, "timeout": wire_timeout}}, *before, stopped(True))

    done = talk(kind, tmp_path, script, lambda c: c.stop("a:1.0.0", *timeout), subscribe=subscribe)
    assert done == Stopped(True, Exited(3) if subscribe else None)


@pytest.mark.parametrize("denied", [True, False])
def test_stop_of_one_that_cannot_be_inspected(kind: Any, tmp_path: Path, denied: bool) -> None:
    refusal = {"permission_denied": INSPECT} if denied else {"inspect": INVALID}

    def script(wire: Wire) -> None:
        wire.answer(INSPECT, {"response": refusal})
        wire.answer({"stop": {**ID, "timeout": None}}, stopped(False))

    assert talk(kind, tmp_path, script, lambda c: c.stop(C)) == Stopped(False, None)


def test_a_stop_that_takes_longer_than_an_answer_may(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, inspected(7, stop={"timeout": "100ms"}))
        wire.line()
        # Nothing, until the client gives up; then the late answer is dropped.
        assert wire.line() == {"request": "ident"}
        wire.send(stopped(True), {"response": {"ident": "a:1.0.0"}})

    def act(client: Any) -> Any:
        with pytest.raises(StillRunningError) as caught:
            client.stop(C, kill_timeout=0.05)
        assert client.ident() == C
        return caught.value

    failure = talk(kind, tmp_path, script, act)
    assert (failure.container, failure.pid) == (C, 7)
    assert str(failure).startswith("a:1.0.0 has not ended within 0.05 s of SIGKILL")


def test_the_blocking_timeout_does_not_end_a_stop(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, inspected(7))
        wire.line()
        assert wire.stream.gettimeout() is not None
        wire.stream.settimeout(0.3)
        with pytest.raises(TimeoutError):
            wire.stream.recv(1)
        wire.stream.settimeout(10)
        wire.send(stopped(False))

    def whole(wire: Wire) -> None:
        wire.greet(False, ("service",))
        script(wire)

    options: dict[str, Any] = {"timeout": 0.1} if kind is CLIENTS[0] else {}
    with Peer(tmp_path, whole) as peer, kind.connect(peer.url, **options) as client:
        assert client.stop(C, 5) == Stopped(False, None)


def test_restart(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer("list", {"response": {"list": ["a:1.0.0"]}})
        wire.answer(INSPECT, inspected(7))
        wire.answer({"restart": ID}, EXIT, {"response": {"restart": {"ok": ID}}})

    assert talk(kind, tmp_path, script, lambda c: c.restart("a")) == C


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"restart": INVALID}, api.RefusedError),
        ({"permission_denied": {"restart": ID}}, PermissionDeniedError),
    ],
)
def test_a_refused_restart(kind: Any, tmp_path: Path, answers: Any, expected: Any) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, inspected(7))
        wire.answer({"restart": ID}, {"response": answers})

    with pytest.raises(expected) as caught:
        talk(kind, tmp_path, script, lambda c: c.restart(C))
    if expected is PermissionDeniedError:
        assert "needs the permissions 'kill' and 'start'" in str(caught.value)


def test_a_restart_without_an_answer(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("northstar.client.stopping.TIMEOUT", 0.05)

    def script(wire: Wire) -> None:
        wire.answer(INSPECT, inspected(7, stop={"timeout": "0ms"}))
        wire.line()

    with pytest.raises(NoAnswerError, match=r"not been restarted within 0\.1 s"):
        talk(kind, tmp_path, script, lambda c: c.restart(C, kill_timeout=0.05))


@pytest.mark.parametrize("goal", ["wait_started", "wait_ready"])
@pytest.mark.parametrize(
    "messages",
    [
        [answer("ready")],
        [answer("waiting", 0), state("starting"), state("running"), state("ready")],
        # It restarts meanwhile. Another version does not count.
        [
            answer("starting"),
            state("ready", 9, "a:2.0.0"),
            state("backoff"),
            state("starting", 2),
            state("ready", 2),
        ],
        # It was ready for a moment, before the answer.
        [state("ready", 4), answer("backoff", 4)],
        # It was stopped and started again.
        [state("installed", 3), answer("starting", 4), state("ready", 4)],
    ],
    ids=["at-once", "later", "restarted", "before", "again"],
)
def test_waiting_for_a_state(kind: Any, tmp_path: Path, goal: str, messages: list[Any]) -> None:
    found = talk(
        kind,
        tmp_path,
        lambda wire: wire.answer(STATUS, *messages),
        lambda c: getattr(c, goal)("a:1.0.0", 9),
    )
    assert isinstance(found, Status)
    if messages[-1] != answer("backoff", 4):
        assert found.state in (ContainerState.READY, ContainerState.RUNNING)


def test_started_is_not_ready(kind: Any, tmp_path: Path) -> None:
    for running in ("running", "unhealthy"):
        found = talk(
            kind,
            tmp_path,
            lambda wire, running=running: wire.answer(STATUS, answer(running)),  # type: ignore[misc]
            lambda c: c.wait_started(C, 9),
        )
        assert found.state.value == running
        (tmp_path / "console").unlink()

    def act(client: Any) -> Any:
        with pytest.raises(WaitTimeoutError) as caught:
            client.wait_ready(C, 0.05)
        return caught.value

    failure = talk(kind, tmp_path, lambda wire: wire.answer(STATUS, answer("running")), act)
    assert str(failure) == "a:1.0.0 is not ready within 0.05 s: its state is running"
    assert issubclass(WaitTimeoutError, TimeoutError)
    assert (failure.container, failure.status.run) == (C, 1)


@pytest.mark.parametrize(
    "messages",
    [
        [answer("failed", reason="exit 1")],
        # The run that was ready is an earlier one.
        [state("ready", 3), state("starting", 4), answer("failed", 4, reason="exit 1")],
        [answer("stopping"), state("failed", reason="exit 1")],
    ],
)
def test_a_state_that_is_not_reached(kind: Any, tmp_path: Path, messages: list[Any]) -> None:
    with pytest.raises(NotReachedError) as caught:
        talk(
            kind,
            tmp_path,
            lambda wire: wire.answer(STATUS, *messages),
            lambda c: c.wait_ready(C),
        )
    assert str(caught.value) == "a:1.0.0 is not ready: its state is failed (exit 1)"
    assert not isinstance(caught.value, TimeoutError)


def test_waiting_needs_a_subscription(kind: Any, tmp_path: Path) -> None:
    for act in (
        lambda c: c.wait_ready(C),
        lambda c: c.wait_started(C),
        lambda c: c.start(C, wait=True),
    ):
        with pytest.raises(InvalidValueError, match="did not subscribe"):
            talk(kind, tmp_path, lambda _: None, act, subscribe=False)
        (tmp_path / "console").unlink()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([state("starting"), state("running")], [state("ready")]),
        ([state("starting"), state("ready"), EXIT, state("installed")], []),
    ],
)
def test_a_start_that_waits(kind: Any, tmp_path: Path, before: list[Any], after: list[Any]) -> None:
    def script(wire: Wire) -> None:
        wire.answer(START, *before, STARTED, *after)

    assert talk(kind, tmp_path, script, lambda c: c.start(C, wait=True)) is None


@pytest.mark.parametrize("end", ["backoff", "failed", "installed"])
def test_a_start_that_waits_ends_with_its_run(kind: Any, tmp_path: Path, end: str) -> None:
    def script(wire: Wire) -> None:
        wire.answer(START, state("starting"), state("running"), STARTED, EXIT, state(end))

    with pytest.raises(NotReachedError, match=f"is not ready: its state is {end}"):
        talk(kind, tmp_path, script, lambda c: c.start(C, wait=True))


KILLED = {"signalled": {"signal": 9}}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([answer("ready"), EXIT, state("backoff")], Exited(3)),
        ([answer("waiting", 1, last=KILLED), state("starting", 2), EXIT], Exited(3)),
        ([EXIT, answer("installed", last={"exit": {"code": 3}})], Exited(3)),
        ([answer("installed", last=KILLED)], Signalled(9)),
        ([answer("failed", last=KILLED)], Signalled(9)),
        ([answer("backoff", last=KILLED)], Signalled(9)),
    ],
)
def test_waiting_for_an_exit(kind: Any, tmp_path: Path, messages: list[Any], expected: Any) -> None:
    found = talk(
        kind, tmp_path, lambda wire: wire.answer(STATUS, *messages), lambda c: c.wait(C, 9)
    )
    assert found == expected


def test_waiting_for_the_exit_of_one_that_never_ran(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(api.RefusedError) as caught:
        talk(
            kind,
            tmp_path,
            lambda wire: wire.answer(STATUS, answer("installed", 0)),
            lambda c: c.wait(C),
        )
    assert caught.value.error == error.StopContainerNotStarted(C)


def test_waiting_for_the_exit_of_a_start_that_fails(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(NotReachedError, match="was not started: its state is installed"):
        talk(
            kind,
            tmp_path,
            lambda wire: wire.answer(STATUS, answer("starting"), state("installed")),
            lambda c: c.wait(C, 9),
        )


def test_notifications_that_are_unknown_are_ignored(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(
            "ident",
            {"notification": {"one_of_the_future": ["a:1.0.0", 5]}},
            {"notification": "another"},
            state("ready", new_member=1),
            {"notification": {"install": "a:1.0.0"}},
            {"response": {"ident": "a:1.0.0"}},
            {"notification": "shutdown"},
        )

    def act(client: Any) -> Any:
        client.ident()
        received = client.notifications()
        return [next(received), next(received)]

    found = talk(kind, tmp_path, script, act)
    assert isinstance(found[0], notification.State)
    assert found[0].status.state is ContainerState.READY
    assert found[1] == notification.Install(C)


def test_a_plain_connection_may_be_requested(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        connect = {"version": "0.9.2", "subscribe_notifications": False}
        assert wire.line() == {"connect": connect}
        wire.send({"connect_ack": None})
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url, extended=False) as client,
        pytest.raises(MissingFeatureError),
    ):
        client.status()
