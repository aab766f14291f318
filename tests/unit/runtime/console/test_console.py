"""The console's protocol: connect, every request, permissions, the order of answers."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
from typing import Any

import pytest

from northstar.api import RefusedError, error, notification
from northstar.model import FULL, Container, Exited, NorthstarError, Permission
from northstar.runtime.config import ConsoleOptions
from tests.unit.runtime.console.harness import (
    ACK,
    CONNECT,
    NO_LIMIT,
    SUBSCRIBE,
    A,
    B,
    Bench,
    run,
    serving,
    until,
)

START: dict[str, Any] = {"container": "a:1.0.0", "arguments": [], "environment": {}}
OK_A = {"ok": {"container": "a:1.0.0"}}


def signal_text(number: int) -> str:
    return f"signal {number} is not within 1..31; name one as TERM, or see signal(7)"


def failed(container: str, wire: Any) -> dict[str, Any]:
    return {"error": {"container": container, "error": wire}}


def invalid(container: str) -> dict[str, Any]:
    return failed(container, {"invalid_container": {"container": container}})


ANSWERS: list[tuple[Any, Any, Any]] = [
    ("ident", {"ident": "extern:0.0.0"}, None),
    ("list", {"list": ["a:1.0.0", "b:2.0.0"]}, "list"),
    ("repositories", {"repositories": ["mem", "disk"]}, None),
    ("shutdown", "shutdown", "shutdown"),
    (
        {"inspect": {"container": "a:1.0.0"}},
        {
            "inspect": {
                "ok": {
                    "container": "a:1.0.0",
                    "data": {
                        "manifest": {"name": "a"},
                        "repository": "mem",
                        "mounted": True,
                        "process": None,
                    },
                }
            }
        },
        ("inspect", "a:1.0.0"),
    ),
    (
        {"inspect": {"container": "x:1.0.0"}},
        {"inspect": invalid("x:1.0.0")},
        ("inspect", "x:1.0.0"),
    ),
    (
        {"mount": {"containers": ["x:1.0.0", "a:1.0.0"]}},
        {"mount": [invalid("x:1.0.0"), OK_A]},
        ("mount", "x:1.0.0"),
    ),
    ({"mount": {"containers": []}}, {"mount": []}, None),
    (
        {"umount": {"containers": ["a:1.0.0", "x:1.0.0"]}},
        {"umount": [OK_A, invalid("x:1.0.0")]},
        ("umount", "a:1.0.0"),
    ),
    ({"start": START}, {"start": OK_A}, ("start", "a:1.0.0", None, (), {})),
    (
        {"start": START | {"init": "/i", "arguments": ["x"], "environment": {"K": "v"}}},
        {"start": OK_A},
        ("start", "a:1.0.0", "/i", ("x",), {"K": "v"}),
    ),
    (
        {"kill": {"container": "a:1.0.0", "signal": 31}},
        {"kill": OK_A},
        ("kill", "a:1.0.0", 31),
    ),
    (
        {"kill": {"container": "x:1.0.0", "signal": 32}},
        {
            "kill": failed(
                "x:1.0.0",
                {"unexpected": {"error": signal_text(32)}},
            )
        },
        None,
    ),
    (
        {"kill": {"container": "a:1.0.0", "signal": 0}},
        {
            "kill": failed(
                "a:1.0.0",
                {"unexpected": {"error": signal_text(0)}},
            )
        },
        None,
    ),
    (
        {"uninstall": {"container": "a:1.0.0", "wipe": True}},
        {"uninstall": OK_A},
        ("uninstall", "a:1.0.0", True),
    ),
]

PERMISSIONS: list[tuple[Permission, Any]] = [
    (Permission.IDENT, "ident"),
    (Permission.LIST, "list"),
    (Permission.REPOSITORIES, "repositories"),
    (Permission.SHUTDOWN, "shutdown"),
    (Permission.INSPECT, {"inspect": {"container": "a:1.0.0"}}),
    (Permission.MOUNT, {"mount": {"containers": ["a:1.0.0"]}}),
    (Permission.UMOUNT, {"umount": {"containers": ["a:1.0.0"]}}),
    (Permission.START, {"start": START | {"init": None}}),
    (Permission.START_COMMAND, {"start": START | {"init": None, "arguments": ["x"]}}),
    (Permission.KILL, {"kill": {"container": "a:1.0.0", "signal": 15}}),
    (Permission.UNINSTALL, {"uninstall": {"container": "a:1.0.0", "wipe": False}}),
    (Permission.TOKEN_CREATE, {"token_create": {"target": "b", "shared": ""}}),
    (
        Permission.TOKEN_VERIFICATION,
        {
            "token_verify": {
                "token": base64.b64encode(bytes(40)).decode(),
                "user": "b",
                "shared": "",
            }
        },
    ),
]


@pytest.mark.parametrize("tcp", [True, False])
def test_answers(tcp: bool) -> None:
    async def test() -> None:
        async with serving(tcp=tcp) as bench:
            client = await bench.connected()
            for request, response, call in ANSWERS:
                bench.runtime.calls.clear()
                assert await client.ask(request) == response
                assert bench.runtime.calls[:1] == ([call] if call else [])

    run(test())


@pytest.mark.parametrize(("permission", "request_"), PERMISSIONS)
def test_permission(permission: Permission, request_: Any) -> None:
    async def test() -> None:
        async with serving(FULL - {permission}) as bench:
            client = await bench.connected()
            assert await client.ask(request_) == {"permission_denied": request_}
            assert bench.runtime.calls == []
        async with serving(frozenset({permission})) as bench:
            client = await bench.connected()
            response = await client.ask(request_)
            assert "permission_denied" not in response

    run(test())


@pytest.mark.parametrize("version", ["0.9.0", "0.9.2", "0.9.99", "0.10.0", "1.0.0"])
def test_connect(version: str) -> None:
    async def test() -> None:
        async with serving() as bench:
            connect = {"version": version, "subscribe_notifications": True}
            await bench.connected({"connect": connect})

    run(test())


@pytest.mark.parametrize("version", ["0.8.99", "0.0.0"])
def test_an_old_version_is_refused_before_permissions(version: str) -> None:
    async def test() -> None:
        async with serving(frozenset()) as bench:
            client = await bench.client()
            client.send({"connect": {"version": version, "subscribe_notifications": True}})
            nack = {"invalid_protocol_version": {"version": "0.9.2"}}
            assert await client.receive() == {"connect_nack": nack}
            assert await client.ended() == b""

    run(test())


def test_subscribing_needs_a_permission() -> None:
    async def test() -> None:
        async with serving(FULL - {Permission.NOTIFICATIONS}) as bench:
            client = await bench.client()
            client.send(SUBSCRIBE, {"request": "list"})
            assert await client.receive() == {"connect_nack": "permission_denied"}
            assert await client.ended() == b""
            assert bench.runtime.calls == []
            await bench.connected()

    run(test())


CLOSED: list[tuple[str, list[Any], str]] = [
    ("no connect", [{"request": "list"}], "where connect is expected"),
    ("no message", [b"hello\n"], "invalid JSON"),
    ("empty line", [b"\n"], "Remote(unix://unnamed): "),
    ("no UTF-8", [CONNECT, b'{"request":"\xff"}\n'], "invalid UTF-8"),
    ("connect twice", [CONNECT, CONNECT], "Connect where a request is expected"),
    ("a response", [CONNECT, {"response": {"list": []}}], "List where a request is expected"),
    ("an unknown request", [CONNECT, {"request": "nope"}], "nope"),
    ("a last line", [CONNECT, b'{"request":'], "invalid JSON"),
]


@pytest.mark.parametrize(
    ("messages", "reason"), [c[1:] for c in CLOSED], ids=[c[0] for c in CLOSED]
)
def test_invalid_input_closes_with_a_warning(
    messages: list[Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.client()
            client.send(*messages)
            client.writer.write_eof()
            answers = (await client.ended()).splitlines()
            assert answers == ([b'{"connect_ack":null}'] if len(messages) > 1 else [])
            assert bench.runtime.calls == []

    caplog.set_level(logging.WARNING)
    run(test())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Remote(unix://unnamed): ")
    assert reason in record.getMessage()


def test_connect_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(connect_timeout=0.2) as bench:
            ready, silent = await bench.connected(), await bench.client()
            assert await silent.ended() == b""
            assert await ready.ask("repositories")

    caplog.set_level(logging.INFO)
    run(test())
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert "Remote(unix://unnamed): no connect within 0.2 s, closing" in messages


def test_end_before_connect(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.client()
            client.writer.write_eof()
            assert await client.ended() == b""

    caplog.set_level(logging.INFO)
    run(test())
    assert [(r.levelno, r.getMessage()) for r in caplog.records][-1] == (
        logging.INFO,
        "Remote(unix://unnamed): end of the stream before connect",
    )


def test_a_last_line_needs_no_newline() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            client.send(b' {"request" : "repositories"} \r\n{"request":"ident"}')
            client.writer.write_eof()
            assert await client.receive() == {"response": {"repositories": ["mem", "disk"]}}
            assert await client.receive() == {"response": {"ident": "extern:0.0.0"}}
            assert await client.ended() == b""

    run(test())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["start"] = asyncio.Event()
            client = await bench.connected()
            client.send({"request": {"start": START}}, {"request": "list"}, {"request": "ident"})
            await until(lambda: bench.runtime.busy)
            # A second client is not delayed, and the first one's next request has not begun.
            other = await bench.connected()
            assert await other.ask("ident") == {"ident": "extern:0.0.0"}
            assert "list" not in bench.runtime.calls
            bench.runtime.gates["start"].set()
            assert await client.receive() == {"response": {"start": OK_A}}
            assert await client.receive() == {"response": {"list": ["a:1.0.0", "b:2.0.0"]}}
            assert await client.receive() == {"response": {"ident": "extern:0.0.0"}}

    run(test())


def test_containers_of_one_mount_request_are_mounted_at_once() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["mount"] = asyncio.Event()
            client = await bench.connected()
            client.send({"request": {"mount": {"containers": ["b:2.0.0"] * 30 + ["x:1.0.0"]}}})
            await until(lambda: bench.runtime.busy == 31)
            bench.runtime.gates["mount"].set()
            response = (await client.receive())["response"]
            assert response["mount"] == [{"ok": {"container": "b:2.0.0"}}] * 30 + [
                invalid("x:1.0.0")
            ]

    run(test())


def test_a_huge_mount_request_is_answered_completely() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            names = [f"c:{n}.0.0" for n in range(1000)]
            response = await client.ask({"mount": {"containers": names}})
            assert [result["error"]["container"] for result in response["mount"]] == names

    run(test())


@pytest.mark.parametrize(
    ("raised", "wire"),
    [
        (
            RefusedError(error.UmountBusy(B)),
            {"umount_busy": {"container": "b:2.0.0"}},
        ),
        (
            OSError(28, "No space left on device", "/x"),
            {"unexpected": {"error": "/x: No space left on device"}},
        ),
        (
            NorthstarError("it is so", hint="do that"),
            {"unexpected": {"error": "it is so; do that"}},
        ),
        (ZeroDivisionError("oh"), {"unexpected": {"error": "ZeroDivisionError: oh"}}),
    ],
)
def test_failures_are_answers(
    raised: Exception, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    requests = {
        "inspect": {"container": "a:1.0.0"},
        "start": START,
        "kill": {"container": "a:1.0.0", "signal": 1},
        "uninstall": {"container": "a:1.0.0", "wipe": False},
    }

    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            for name, request in requests.items():
                bench.runtime.failures = {name: raised}
                assert await client.ask({name: request}) == {name: failed("a:1.0.0", wire)}
            bench.runtime.failures = {"umount": raised}
            response = await client.ask({"umount": {"containers": ["a:1.0.0"]}})
            assert response == {"umount": [failed("a:1.0.0", wire)]}

    run(test())
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    if isinstance(raised, RefusedError):
        assert errors == []
    else:
        assert [e.split(" a:1.0.0")[0] for e in errors] == [
            f"Failed to {name}" for name in [*requests, "umount"]
        ]


def test_an_internal_error_closes_only_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving() as bench:
            client, other = await bench.connected(), await bench.connected()
            bench.runtime.failures = {"list": ZeroDivisionError()}
            client.send({"request": "list"})
            assert await client.ended() == b""
            assert await other.ask("ident") == {"ident": "extern:0.0.0"}

    run(test())
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_a_cancelled_operation_closes_the_connection() -> None:
    async def test() -> None:
        async with serving() as bench:
            client, other = await bench.connected(), await bench.connected()
            bench.runtime.failures = {"start": asyncio.CancelledError()}
            client.send({"request": {"start": START}}, {"request": "ident"})
            assert await client.ended() == b""
            bench.runtime.failures = {"write": asyncio.CancelledError()}
            other.send({"request": {"install": {"repository": "mem", "size": 1}}}, b"x")
            assert await other.ended() == b""
            assert bench.runtime.packages[0].aborted

    run(test())


def test_the_shutdown_response_comes_before_the_notification() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.on_shutdown = lambda: bench.hub.publish(notification.Shutdown())
            client = await bench.connected(SUBSCRIBE)
            client.send({"request": "shutdown"})
            assert await client.receive() == {"response": "shutdown"}
            assert await client.receive() == {"notification": "shutdown"}

    run(test())


def test_notifications_come_between_request_and_response() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["kill"] = asyncio.Event()
            client, deaf = await bench.connected(SUBSCRIBE), await bench.connected()
            for one in (client, deaf):
                one.send({"request": {"kill": {"container": "a:1.0.0", "signal": 9}}})
            await until(lambda: bench.runtime.busy == 2)
            bench.hub.publish(notification.Started(A))
            bench.hub.publish(notification.Exit(A, Exited(3)))
            bench.runtime.gates["kill"].set()
            assert [await client.receive() for _ in range(3)] == [
                {"notification": {"started": "a:1.0.0"}},
                {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 3}}]}},
                {"response": {"kill": OK_A}},
            ]
            assert await deaf.receive() == {"response": {"kill": OK_A}}

    run(test())


def test_nothing_is_sent_before_the_ack() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.client()
            bench.hub.publish(notification.Started(A))
            await client.connect(SUBSCRIBE)
            bench.hub.publish(notification.Started(B))
            assert await client.receive() == {"notification": {"started": "b:2.0.0"}}

    run(test())


def test_requests_wait_until_the_runtime_is_up() -> None:
    async def test() -> None:
        async with serving(started=False) as bench:
            clients = [await bench.connected() for _ in range(3)]
            for client in clients:
                client.send({"request": "ident"}, {"request": {"start": START}})
            last = clients[-1]
            last.send(b'{"request":"repositories"}')
            last.writer.write_eof()
            late = await bench.connected(SUBSCRIBE)
            bench.hub.publish(notification.Started(A))
            # Notifications of starts at boot are sent; requests are not processed.
            assert await late.receive() == {"notification": {"started": "a:1.0.0"}}
            assert bench.runtime.calls == []
            bench.console.run()
            for client in clients:
                assert await client.receive() == {"response": {"ident": "extern:0.0.0"}}
                assert await client.receive() == {"response": {"start": OK_A}}
            assert await last.receive() == {"response": {"repositories": ["mem", "disk"]}}
            assert await last.ended() == b""

    run(test())


def test_a_request_completes_after_its_client_disconnects() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["start"] = asyncio.Event()
            client = await bench.connected()
            client.send({"request": {"start": START}}, {"request": "list"})
            await until(lambda: bench.runtime.busy)
            client.writer.transport.abort()
            other = await bench.connected()
            bench.runtime.gates["start"].set()
            assert await other.ask("ident") == {"ident": "extern:0.0.0"}
            await until(lambda: not bench.runtime.busy)

    run(test())


def test_a_container_named_extern_is_no_client_from_outside() -> None:
    async def test() -> None:
        async with serving(options=ConsoleOptions(token_validity=60.0)) as bench:
            options = ConsoleOptions(token_validity=60.0)
            outside = await bench.connected()
            inside = await (await bench.container(FULL, options)).connect()
            namesake = Container.parse("extern:0.0.0")
            enemy = await (await bench.container(FULL, options, namesake)).connect()
            clients = {"outside": outside, "a": inside, "extern": enemy}
            valid = []
            for maker, creating in clients.items():
                for target in ("a", "extern"):
                    create = {"target": target, "shared": ""}
                    token = (await creating.ask({"token_create": create}))["token"]
                    for reader, verifying in clients.items():
                        for user in ("a", "extern"):
                            verify = {"token": token, "user": user, "shared": ""}
                            answer = await verifying.ask({"token_verify": verify})
                            if answer == {"token_verification": "Ok"}:
                                valid.append((maker, user, target, reader))
            assert valid == [
                ("outside", "extern", "a", "a"),
                ("outside", "extern", "extern", "outside"),
                ("a", "a", "a", "a"),
                ("a", "a", "extern", "outside"),
            ]

    run(test())


def test_tokens() -> None:
    async def test() -> None:
        async with serving(options=ConsoleOptions(token_validity=60.0)) as bench:
            extern = await bench.connected()
            inside = await (
                await bench.container(FULL, ConsoleOptions(token_validity=5.0))
            ).connect()
            shared = base64.b64encode(b"secret").decode()
            token = (await extern.ask({"token_create": {"target": "a", "shared": shared}}))["token"]
            assert len(base64.b64decode(token)) == 40
            verify = {"token": token, "user": "extern", "shared": shared}
            ok = {"token_verification": "Ok"}
            assert await inside.ask({"token_verify": verify}) == ok
            # It was made for a, not for extern; and not by b.
            invalid_ = {"token_verification": "Invalid"}
            assert await extern.ask({"token_verify": verify}) == invalid_
            assert await inside.ask({"token_verify": verify | {"user": "b"}}) == invalid_
            bench.clock = lambda: 1006.0
            assert await inside.ask({"token_verify": verify}) == {"token_verification": "Expired"}
            assert await extern.ask({"token_verify": verify}) == invalid_
            bench.clock = lambda: 999.0
            assert await inside.ask({"token_verify": verify}) == {"token_verification": "Future"}

    run(test())


def test_a_containers_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(FULL, connect_timeout=0.2) as bench:
            permissions = frozenset({Permission.IDENT, Permission.KILL})
            client = await bench.container(permissions, NO_LIMIT)
            # It has no time limit for its connect: that of another client passes meanwhile.
            other = await bench.client()
            assert await other.ended() == b""
            await client.connect()
            assert await client.ask("ident") == {"ident": "a:1.0.0"}
            assert await client.ask("list") == {"permission_denied": "list"}
            client.send(b"junk\n")
            assert await client.ended() == b""

    caplog.set_level(logging.DEBUG)
    run(test())
    messages = [(r.levelno, r.getMessage()) for r in caplog.records]
    assert (logging.DEBUG, "Container a:1.0.0 connected with permissions ident, kill") in messages
    assert any(m.startswith("Container(a:1.0.0): invalid JSON") for _, m in messages)


def test_closing_a_containers_connection() -> None:
    async def test() -> None:
        async with serving() as bench:
            local, remote = socket.socketpair()
            connection = await bench.console.adopt(local, A, FULL, NO_LIMIT)
            reader, writer = await asyncio.open_unix_connection(sock=remote)
            connection.close()
            connection.close()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(test())


@pytest.mark.parametrize("tcp", [True, False])
def test_log_of_a_client(tcp: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(frozenset({Permission.UMOUNT, Permission.LIST}), tcp=tcp) as bench:
            client = await bench.connected()
            names.append(client.writer.get_extra_info("sockname"))

    names: list[Any] = []
    caplog.set_level(logging.DEBUG)
    run(test())
    peer = f"tcp://127.0.0.1:{names[0][1]}" if tcp else "unix://unnamed"
    assert (
        "northstar.runtime.console",
        logging.DEBUG,
        f"Client Remote({peer}) connected with permissions list, umount",
    ) in caplog.record_tuples


def test_close_closes_all_connections() -> None:
    async def test() -> None:
        async with serving() as bench:
            clients = [await bench.connected(), await bench.client()]
            bench.console.stop_listening()
            assert await clients[0].ask("ident") == {"ident": "extern:0.0.0"}
            with pytest.raises(ConnectionRefusedError):
                await bench.client()
            clients[0].send({"request": "list"})
            await until(lambda: "list" in bench.runtime.calls)
            await bench.console.close()
            assert await clients[0].receive() == {"response": {"list": ["a:1.0.0", "b:2.0.0"]}}
            for client in clients:
                assert await client.ended() == b""

    run(test())


def test_close_waits_for_a_request_with_a_timeout() -> None:
    async def test() -> None:
        async with serving() as bench:
            bench.runtime.gates["start"] = asyncio.Event()
            client = await bench.connected()
            client.send({"request": {"start": START}})
            await until(lambda: bench.runtime.busy)
            await bench.console.close(grace_period=0.05)
            assert await client.ended() == b""

    run(test())


def test_ident_returns_a_containers_name() -> None:
    async def test(bench: Bench, container: Container) -> None:
        local, remote = socket.socketpair()
        await bench.console.adopt(local, container, FULL, NO_LIMIT)
        reader, writer = await asyncio.open_unix_connection(sock=remote)
        writer.write(b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n')
        writer.write(b'{"request":"ident"}\n')
        assert await reader.readline() == b'{"connect_ack":null}\n'
        assert await reader.readline() == f'{{"response":{{"ident":"{container}"}}}}\n'.encode()
        writer.close()
        await writer.wait_closed()

    async def both() -> None:
        async with serving() as bench:
            await asyncio.gather(test(bench, A), test(bench, B))

    run(both())


def test_ack_is_the_first_line() -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.client()
            client.send(SUBSCRIBE, {"request": "ident"})
            assert await client.receive() == ACK
            assert await client.receive() == {"response": {"ident": "extern:0.0.0"}}

    run(test())
