"""The logs of containers: both clients, against a scripted runtime."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import client as clients
from northstar.api import RefusedError
from northstar.api.log import Log, LogLine, LogLost, LogStream
from northstar.client import DisconnectedError, MissingFeatureError, PermissionDeniedError, reading
from northstar.model import Container, InvalidValueError, ProtocolError
from tests.unit.client.peer import CLIENTS, Peer, Wire

both = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])

C = Container.parse("a:1.0.0")
ID = {"container": "a:1.0.0"}
LOST = {"log": {**ID, "run": 1, "lost": 5}}
OK = {"response": {"logs": {"ok": ID}}}
IDENT = {"response": {"ident": "extern:0.0.0"}}
EXTERN = Container.parse("extern:0.0.0")


def request(**changes: Any) -> dict[str, Any]:
    defaults = {
        "follow": False,
        "since": None,
        "lines": None,
        "cursor": None,
        "streams": ["stdout", "stderr"],
    }
    return {"logs": {**ID, **defaults, **changes}}


def line(text: str, **changes: Any) -> dict[str, Any]:
    members = {"run": 1, "time": 5, "stream": "stdout", "text": text, "cursor": "c", **changes}
    return {"log": {**ID, **members}}


def entry(text: str) -> LogLine:
    return LogLine(C, 1, 5, LogStream.STDOUT, text, "c")


def talk(
    kind: Any,
    tmp_path: Path,
    script: Callable[[Wire], None],
    act: Callable[[Any], Any],
    features: tuple[str, ...] = ("service", "logs"),
) -> Any:
    def whole(wire: Wire) -> None:
        wire.greet(False, features)
        script(wire)

    with Peer(tmp_path, whole) as peer, kind.connect(peer.url) as client:
        return act(client)


@both
def test_lines_and_gaps(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer("list", {"response": {"list": ["a:1.0.0"]}})
        expected = request(
            since=1_500_000_000, lines=7, cursor="x", streams=["stderr", "stdout"], follow=True
        )
        wire.answer(expected, LOST, line("one"), line("two"), OK)
        wire.answer("ident", IDENT)

    def act(client: Any) -> None:
        streams = [LogStream.STDERR, LogStream.STDOUT, LogStream.STDERR]
        found = client.logs("a", follow=True, since=1.5, lines=7, cursor="x", streams=streams)
        assert list(found) == [LogLost(C, 1, 5), entry("one"), entry("two")]
        assert client.ident() == EXTERN

    talk(kind, tmp_path, script, act)


@both
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"response": {"permission_denied": request()}}, PermissionDeniedError),
        (
            {"response": {"logs": {"error": {**ID, "error": {"invalid_container": ID}}}}},
            RefusedError,
        ),
    ],
)
def test_refusals(kind: Any, tmp_path: Path, answer: Any, error: Any) -> None:
    """Also behind messages; the connection can be used on."""

    def script(wire: Wire) -> None:
        for before in ([], [line("one")]):
            wire.answer(request(), *before, answer)
        wire.answer("ident", IDENT)

    def act(client: Any) -> None:
        for _ in range(2):
            with pytest.raises(error):
                list(client.logs(C))
        assert client.ident() == EXTERN

    talk(kind, tmp_path, script, act)


@both
def test_an_older_runtime_is_sent_nothing(kind: Any, tmp_path: Path) -> None:
    def act(client: Any) -> None:
        with pytest.raises(MissingFeatureError, match='it has no feature "logs"'):
            list(client.logs("a"))

    talk(kind, tmp_path, lambda _: None, act, features=("service",))


@both
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"since": -1.0}, "since=-1.0 is not a number of seconds"),
        ({"since": float("nan")}, "since=nan is not a number of seconds"),
        ({"lines": -1}, "lines=-1 is not a number of lines"),
        ({"streams": ()}, "a log of no stream"),
    ],
)
def test_invalid_arguments(kind: Any, tmp_path: Path, options: Any, reason: str) -> None:
    def act(client: Any) -> None:
        with pytest.raises(InvalidValueError, match=reason):
            list(client.logs(C, **options))
        assert client.ident() == EXTERN

    talk(kind, tmp_path, lambda wire: wire.answer("ident", IDENT), act)


@both
@pytest.mark.parametrize(
    "messages",
    [
        [line("of nobody")],
        [{"log": {**LOST["log"], "container": "b:1.0.0"}}],
        [OK, line("too late")],
    ],
)
def test_messages_out_of_place(kind: Any, tmp_path: Path, messages: list[Any]) -> None:
    def script(wire: Wire) -> None:
        if "of nobody" in str(messages):
            wire.answer("ident", *messages)
        else:
            wire.answer(request(), *messages)
        with contextlib.suppress(OSError):
            wire.expect_end()

    def act(client: Any) -> None:
        def use() -> None:
            if "of nobody" not in str(messages):
                list(client.logs(C))
            client.ident()

        with pytest.raises(ProtocolError, match="log"):
            use()

    talk(kind, tmp_path, script, act)


@both
def test_the_end_of_the_connection(kind: Any, tmp_path: Path) -> None:
    """What was received before is there."""

    def script(wire: Wire) -> None:
        wire.answer(request(follow=True), line("one"))

    def act(client: Any) -> None:
        found = client.logs(C, follow=True)
        assert next(found) == entry("one")
        with pytest.raises(DisconnectedError):
            next(found)

    talk(kind, tmp_path, script, act)


@both
def test_closing_a_followed_log_closes_the_connection(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(request(follow=True), line("one"), line("two"))
        wire.expect_end()

    def act(client: Any) -> None:
        found = client.logs(C, follow=True)
        assert next(found) == entry("one")
        found.close()
        with pytest.raises(DisconnectedError, match="closed"):
            client.ident()

    talk(kind, tmp_path, script, act)


@both
def test_closing_a_log_drops_the_rest(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.answer(request(), line("one"), line("two"))
        assert wire.line() == {"request": "ident"}
        wire.send(line("three"), OK, IDENT)

    def act(client: Any) -> None:
        found = client.logs(C)
        assert next(found) == entry("one")
        found.close()
        assert client.ident() == EXTERN

    talk(kind, tmp_path, script, act)


def test_a_caller_that_does_not_read_makes_the_runtime_wait(tmp_path: Path) -> None:
    """The asyncio client reads no more than some messages ahead."""
    sent = 0

    def script(wire: Wire) -> None:
        nonlocal sent
        assert wire.line() == {"request": request()}
        wire.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for _ in range(20_000):
            wire.send(line("x" * 200))
            sent += 1
        wire.send(OK)

    async def act(peer: Peer) -> None:
        async with await clients.Client.connect(peer.url) as client:
            entries = client.logs(C)
            assert isinstance(await anext(entries), LogLine)
            before = -1
            while sent != before:  # until it waits
                before = sent
                await asyncio.sleep(0.2)
            assert sent < 15_000
            assert client._session.unread_logs < reading.UNREAD_MAX + 2000
            rest: list[Log] = [one async for one in entries]
            assert len(rest) == 19_999

    def whole(wire: Wire) -> None:
        wire.greet(False, ("logs",))
        script(wire)

    with Peer(tmp_path, whole) as peer:
        asyncio.run(act(peer))
