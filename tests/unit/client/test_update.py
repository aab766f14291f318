"""`update` of both clients: the package, the late answer, and its failures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import notification
from northstar.client import DisconnectedError, MissingFeatureError, PermissionDeniedError, blocking
from northstar.model import InvalidValueError
from tests.unit.client.peer import CLIENTS, Peer, Wire

both = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])

PACKAGE = bytes(range(256)) * 4000
REQUEST = {"update": {"repository": "r", "size": len(PACKAGE)}}
DONE = {"response": {"update": {"ok": {"container": "a:2.0.0", "previous": "a:1.0.0"}}}}
FAILED = {"response": {"update": {"error": {"error": {"unexpected": {"error": "rolled back"}}}}}}
STAGED = {
    "notification": {
        "update": ["a:2.0.0", {"phase": "staged", "previous": "a:1.0.0", "reason": ""}]
    }
}


def receive(wire: Wire) -> None:
    assert wire.line() == {"request": REQUEST}
    assert wire.read(len(PACKAGE)) == PACKAGE


@both
def test_the_answer(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=["update"])
        receive(wire)
        wire.send(DONE)
        receive(wire)
        wire.send(FAILED)
        wire.expect_end()

    progress: list[tuple[int, int]] = []
    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        done = c.update(PACKAGE, "r", progress=lambda *p: progress.append(p))
        assert (str(done.container), str(done.previous)) == ("a:2.0.0", "a:1.0.0")
        assert progress[-1] == (len(PACKAGE), len(PACKAGE))
        with pytest.raises(api.RefusedError, match="rolled back"):
            c.update(PACKAGE, "r")


@both
def test_the_answer_may_take_longer_than_the_timeout(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=["update"])
        receive(wire)
        time.sleep(0.5)
        wire.send(DONE)
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url, timeout=0.2) as c:
        assert str(c.update(PACKAGE, "r").container) == "a:2.0.0"


@both
def test_an_older_runtime(kind: Any, tmp_path: Path) -> None:
    """Nothing is sent: it would close the connection."""

    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as c,
        pytest.raises(MissingFeatureError, match='no feature "update"'),
    ):
        c.update(PACKAGE, "r")


@both
def test_a_refusal_during_the_upload(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=["update"])
        wire.send({"response": {"permission_denied": wire.line()["request"]}})

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as c,
        pytest.raises(PermissionDeniedError, match="'update'"),
    ):
        c.update(PACKAGE, "r")


@both
def test_a_lost_connection(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=["update"])
        receive(wire)

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as c,
        pytest.raises(DisconnectedError),
    ):
        c.update(PACKAGE, "r")


def test_watching(tmp_path: Path) -> None:
    """Notifications up to the answer are passed on, in order; those after it stay."""

    def script(wire: Wire) -> None:
        wire.greet(subscribe=True, features=["update"])
        receive(wire)
        wire.send({"notification": {"install": "a:2.0.0"}}, STAGED)
        time.sleep(0.05)
        wire.send({"notification": {"uninstall": "a:1.0.0"}}, DONE)
        wire.expect_end()

    seen: list[notification.Notification] = []
    with Peer(tmp_path, script) as peer, blocking.Client.connect(peer.url, subscribe=True) as c:
        c.update(PACKAGE, "r", watch=seen.append)
    assert [type(message).__name__ for message in seen] == ["Install", "Update", "Uninstall"]


def test_watching_needs_a_subscription(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=["update"])
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        blocking.Client.connect(peer.url) as c,
        pytest.raises(InvalidValueError, match="subscribe"),
    ):
        c.update(PACKAGE, "r", watch=print)
