"""Extended connections: the handshake, their requests and notifications; and that plain connections
have none of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from northstar.api import RefusedError, error, notification
from northstar.model import FULL, Container, Exited, NorthstarError, Permission
from northstar.npk.keylist import key_id
from northstar.runtime.console import dispatch
from northstar.runtime.notifications import Notifications
from tests.unit.runtime.console.harness import (
    ACK,
    CONNECT,
    EXTENDED,
    EXTENDED_ACK,
    EXTENDED_SUBSCRIBE,
    KEYS,
    NO_LIMIT,
    STATUS,
    STATUS_WIRE,
    SUBSCRIBE,
    A,
    B,
    run,
    serving,
)

ID = {"container": "a:1.0.0"}
INVALID = {
    "error": {"container": "x:1.0.0", "error": {"invalid_container": {"container": "x:1.0.0"}}}
}
REQUESTS: list[Any] = [
    {"status": {"containers": ["a:1.0.0"]}},
    {"stop": ID},
    {"restart": ID},
    {"keys": {"repository": "fs"}},
]
KEYS_WIRE = [{"id": key_id(KEYS.keys[0].key), "use": "install"}]

ANSWERS: list[tuple[Any, Any, Any]] = [
    (
        {"status": {"containers": ["x:1.0.0", "b:2.0.0"]}},
        {"status": [INVALID, {"ok": {"container": "b:2.0.0", "status": STATUS_WIRE}}]},
        ("status", "x:1.0.0", "b:2.0.0"),
    ),
    (
        {"stop": {**ID, "timeout": 5}},
        {"stop": {"ok": {**ID, "killed": False}}},
        ("stop", "a:1.0.0", 5),
    ),
    (
        {"stop": {"container": "b:2.0.0"}},
        {"stop": {"ok": {"container": "b:2.0.0", "killed": True}}},
        ("stop", "b:2.0.0", None),
    ),
    ({"stop": {"container": "x:1.0.0"}}, {"stop": INVALID}, ("stop", "x:1.0.0", None)),
    ({"restart": ID}, {"restart": {"ok": ID}}, ("restart", "a:1.0.0")),
    ({"restart": {"container": "x:1.0.0"}}, {"restart": INVALID}, ("restart", "x:1.0.0")),
    (
        {"keys": {"repository": "fs"}},
        {"keys": {"ok": {"repository": "fs", "version": 7, "keys": KEYS_WIRE}}},
        ("keys", "fs", None),
    ),
    (
        {"keys": {"repository": "no", "list": "x"}},
        {"keys": {"error": {"error": {"invalid_repository": {"repository": "no"}}}}},
        ("keys", "no", "x"),
    ),
]


@pytest.mark.parametrize("tcp", [True, False])
def test_answers(tcp: bool) -> None:
    async def test() -> None:
        async with serving(frozenset(Permission), tcp=tcp) as bench:
            client = await bench.connected(EXTENDED)
            for request, response, call in ANSWERS:
                bench.runtime.calls.clear()
                assert await client.ask(request) == response
                assert bench.runtime.calls == [call]

    run(test())


def test_no_container_stands_for_all() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected(EXTENDED)
            answer = await client.ask({"status": {"containers": []}})
            assert [one["ok"]["container"] for one in answer["status"]] == ["a:1.0.0", "b:2.0.0"]
            assert bench.runtime.calls == ["list", ("status", "a:1.0.0", "b:2.0.0")]

    run(test())


def test_a_huge_status_request_lets_other_connections_go_first() -> None:
    async def test() -> None:
        async with serving() as bench:
            client, other = await bench.connected(EXTENDED), await bench.connected()
            status = bench.runtime.status

            def first(containers: Sequence[Container]) -> Any:
                other.send({"request": {"kill": {**ID, "signal": 9}}})
                bench.runtime.status = status  # type: ignore[method-assign]
                return status(containers)

            bench.runtime.status = first  # type: ignore[method-assign]
            count = 50 * dispatch.STATUS_BATCH + 1
            answer = await client.ask({"status": {"containers": count * ["a:1.0.0"]}})
            assert answer["status"] == count * [{"ok": {**ID, "status": STATUS_WIRE}}]
            assert (await other.receive())["response"] == {"kill": {"ok": ID}}
            calls = [call[0] for call in bench.runtime.calls]
            assert len(calls) == 52
            assert 0 < calls.index("kill") < 51

    run(test())


NEEDS = [
    ({"status": {"containers": []}}, {Permission.INSPECT}),
    ({"stop": {**ID, "timeout": None}}, {Permission.KILL}),
    ({"restart": ID}, {Permission.KILL, Permission.START}),
    ({"keys": {"repository": "fs"}}, {Permission.UPDATE}),
]


@pytest.mark.parametrize(
    ("request_", "lacking"), [(request, one) for request, needed in NEEDS for one in needed]
)
def test_each_permission_is_needed(request_: Any, lacking: Permission) -> None:
    async def test() -> None:
        async with serving(frozenset(Permission) - {lacking}) as bench:
            client = await bench.connected(EXTENDED)
            assert await client.ask(request_) == {"permission_denied": request_}
            assert bench.runtime.calls == []

    run(test())


@pytest.mark.parametrize(("request_", "needed"), NEEDS)
def test_no_other_permission_is_needed(request_: Any, needed: set[Permission]) -> None:
    async def test() -> None:
        async with serving(frozenset(needed)) as bench:
            client = await bench.connected(EXTENDED)
            assert "permission_denied" not in await client.ask(request_)

    run(test())


@pytest.mark.parametrize("operation", ["stop", "restart"])
@pytest.mark.parametrize(
    ("failure", "wire"),
    [
        (RefusedError(error.StartContainerResource(A)), {"start_container_resource": ID}),
        (NorthstarError("no"), {"unexpected": {"error": "no"}}),
        (ValueError("bug"), {"unexpected": {"error": "ValueError: bug"}}),
    ],
)
def test_failures_are_answers(operation: str, failure: Exception, wire: Any) -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected(EXTENDED)
            bench.runtime.failures[operation] = failure
            answer = await client.ask({operation: ID})
            assert answer == {operation: {"error": {**ID, "error": wire}}}

    run(test())


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize(
    "connect",
    [
        CONNECT,
        {"connect": {**CONNECT["connect"], "extended": False}},
        {"connect": {**CONNECT["connect"], "extended": None}},
    ],
    ids=["absent", "false", "null"],
)
def test_a_plain_connection_does_not_know_the_requests(
    connect: Any, request_: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving(frozenset(Permission)) as bench:
            client = await bench.client()
            # The same line on an extended connection must not be remembered for this one.
            extended = await bench.connected(EXTENDED)
            assert next(iter(request_)) in await extended.ask(request_)
            client.send(connect, {"request": request_})
            assert await client.ended() == json.dumps(ACK, separators=(",", ":")).encode() + b"\n"
            assert len(bench.runtime.calls) == 1

    run(test())
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    name = next(iter(request_))
    assert warning.endswith(f": request: {name!r} is unknown, closing the connection")


def test_the_section_service_is_only_in_the_answers_of_extended_connections() -> None:
    async def test() -> None:
        async with serving() as bench:
            for connect, manifest in (
                (CONNECT, {"name": "a"}),
                (EXTENDED, {"name": "a", "service": {}}),
            ):
                client = await bench.connected(connect)
                answer = await client.ask({"inspect": ID})
                assert answer["inspect"]["ok"]["data"]["manifest"] == manifest

    run(test())


def test_the_state_is_only_notified_on_extended_connections() -> None:
    async def test() -> None:
        async with serving() as bench:
            plain = await bench.connected(SUBSCRIBE)
            extended = await bench.connected(EXTENDED_SUBSCRIBE)
            deaf = await bench.connected(EXTENDED)
            bench.hub.publish(notification.Started(A))
            bench.hub.publish(notification.State(A, STATUS))
            bench.hub.publish(notification.Exit(A, Exited(1)))
            started = {"notification": {"started": "a:1.0.0"}}
            exited = {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 1}}]}}
            state = {"notification": {"state": ["a:1.0.0", STATUS_WIRE]}}
            assert [await extended.receive() for _ in range(3)] == [started, state, exited]
            assert [await plain.receive() for _ in range(2)] == [started, exited]
            for client in (plain, extended, deaf):
                assert await client.ask("ident") == {"ident": "extern:0.0.0"}

    run(test())


def test_a_containers_connection_may_be_extended() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.container(FULL, NO_LIMIT)
            await client.connect(EXTENDED)
            assert await client.ask({"restart": ID}) == {"restart": {"ok": ID}}
            assert await client.ask("ident") == {"ident": "a:1.0.0"}

    run(test())


@pytest.mark.parametrize(
    ("connect", "nack"),
    [
        ({"version": "0.8.0"}, {"invalid_protocol_version": {"version": "0.9.2"}}),
        ({"subscribe_notifications": True}, "permission_denied"),
    ],
)
def test_an_extended_connection_is_refused_as_any_other(connect: Any, nack: Any) -> None:
    async def test() -> None:
        async with serving(FULL - {Permission.NOTIFICATIONS}) as bench:
            client = await bench.client()
            client.send({"connect": {**EXTENDED["connect"], **connect}})
            assert await client.receive() == {"connect_nack": nack}
            assert await client.ended() == b""

    run(test())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (EXTENDED, "Connect where a request is expected"),
        ({"request": "nope"}, "request: 'nope' is unknown"),
        ({"notification": {"nope": 1}}, "an unknown notification where a request is expected"),
        ({"notification": {"state": ["a:1.0.0", STATUS_WIRE]}}, "State where a request is"),
        ({"connect_ack": EXTENDED_ACK["connect_ack"]}, "ConnectAck where a request is expected"),
    ],
)
def test_invalid_input_closes_with_a_warning(
    line: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected(EXTENDED)
            client.send(line)
            [last] = (await client.ended()).splitlines()
            assert reason in json.loads(last)["notification"]["closing"]["reason"]

    run(test())
    assert any(reason in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("slow", [True, False])
def test_a_slow_subscriber_falls_behind_by_the_notifications_of_its_kind(slow: bool) -> None:
    hub = Notifications(4)
    behind: list[str] = []
    plain = hub.subscribe(lambda _line: None, lambda: behind.append("plain"))
    extended = hub.subscribe(lambda _line: None, lambda: behind.append("extended"), extended=True)
    if slow:
        plain.pause()
        extended.pause()
    for _ in range(5):
        hub.publish(notification.State(B, STATUS))
    assert behind == (["extended"] if slow else [])
    for _ in range(5):
        hub.publish(notification.Started(Container.parse("c:1.0.0")))
    assert behind == (["extended", "plain"] if slow else [])
