"""Common behaviour of both clients, against a scripted runtime."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from northstar import api, client
from northstar.api import error, notification, response
from northstar.client import address
from northstar.model import (
    Container,
    Exited,
    InvalidValueError,
    NorthstarError,
    ProtocolError,
)
from tests.unit.client.peer import CLIENTS, CONNECT, Peer, Wire

A, B = Container.parse("a:1.0.0"), Container.parse("b:2.0.0")
OK_A = {"ok": {"container": "a:1.0.0"}}
TOKEN = bytes(range(40))

pytestmark = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])


def refused(container: str, **refusal: Any) -> dict[str, Any]:
    return {"error": {"container": container, "error": refusal}}


def test_a_method_for_each_request(kind: Any, tmp_path: Path) -> None:
    data = {"manifest": {"name": "a"}, "repository": "r", "mounted": True, "process": None}

    def script(wire: Wire) -> None:
        assert wire.line() == CONNECT
        wire.send({"connect_ack": None})
        for request, answer in (
            ("ident", {"ident": "extern:0.0.0"}),
            ("list", {"list": ["a:1.0.0", "b:2.0.0"]}),
            ("repositories", {"repositories": ["r"]}),
            (
                {"inspect": {"container": "a:1.0.0"}},
                {"inspect": {"ok": {"container": "a:1.0.0", "data": data}}},
            ),
            (
                {"mount": {"containers": ["a:1.0.0", "b:2.0.0"]}},
                {
                    "mount": [
                        OK_A,
                        refused("b:2.0.0", invalid_container={"container": "b:2.0.0"}),
                    ]
                },
            ),
            ({"umount": {"containers": ["a:1.0.0"]}}, {"umount": [OK_A]}),
            (
                {
                    "start": {
                        "container": "a:1.0.0",
                        "init": "/sh",
                        "arguments": ["-c"],
                        "environment": {"K": "v"},
                    }
                },
                {"start": OK_A},
            ),
            (
                {
                    "start": {
                        "container": "a:1.0.0",
                        "init": None,
                        "arguments": [],
                        "environment": {},
                    }
                },
                {"start": OK_A},
            ),
            ({"kill": {"container": "a:1.0.0", "signal": 9}}, {"kill": OK_A}),
            ({"uninstall": {"container": "a:1.0.0", "wipe": True}}, {"uninstall": OK_A}),
            (
                {"token_create": {"target": "t", "shared": "c2g="}},
                {"token": base64.b64encode(TOKEN).decode()},
            ),
            (
                {
                    "token_verify": {
                        "token": base64.b64encode(TOKEN).decode(),
                        "user": "u",
                        "shared": "c2g=",
                    }
                },
                {"token_verification": "Expired"},
            ),
            ("shutdown", "shutdown"),
        ):
            wire.answer(request, {"response": answer})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        with pytest.raises(InvalidValueError, match="name"):  # and nothing is sent
            c.token_create("t t", b"")
        with pytest.raises(InvalidValueError, match="name"):
            c.token_verify(TOKEN, "", b"")
        assert c.ident() == Container.parse("extern:0.0.0")
        assert c.list() == (A, B)
        assert c.repositories() == ("r",)
        assert c.inspect("a:1.0.0") == api.ContainerData({"name": "a"}, "r", True, None)
        assert c.mount(A, "b:2.0.0") == (
            response.Ok(A),
            response.Failed(B, error.InvalidContainer(B)),
        )
        assert c.umount(A) == (response.Ok(A),)
        c.start(A, "/sh", ("-c",), {"K": "v"})
        c.start(A)
        c.kill(A, signal.SIGKILL)
        c.uninstall(A, wipe=True)
        assert c.token_create("t", b"sh") == TOKEN
        assert c.token_verify(TOKEN, "u", b"sh") is api.TokenResult.EXPIRED
        c.shutdown()


def test_refusals_are_exceptions_and_the_connection_goes_on(kind: Any, tmp_path: Path) -> None:
    kill = {"kill": {"container": "a:1.0.0", "signal": 15}}

    def script(wire: Wire) -> None:
        wire.greet()
        not_started = refused("a:1.0.0", stop_container_not_started={"container": "a:1.0.0"})
        wire.answer(kill, {"response": {"kill": not_started}})
        wire.answer(kill, {"response": {"permission_denied": kill}})
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        with pytest.raises(api.RefusedError, match="is not running") as caught:
            c.kill(A)
        assert caught.value.error == error.StopContainerNotStarted(A)
        with pytest.raises(client.PermissionDeniedError, match="'kill'"):
            c.kill(A)
        assert c.ident() == A


def test_no_runtime_listens(kind: Any, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none"
    with pytest.raises(client.ConnectError) as caught:
        kind.connect(url)
    assert str(caught.value).startswith(f"cannot connect to {url}: No such file or directory; is")
    with socket.socket() as unused:
        # Bound, but not listening: connect(2) fails with ECONNREFUSED.
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(client.ConnectError, match="refused"):
            kind.connect(f"tcp://127.0.0.1:{unused.getsockname()[1]}")


def test_a_silent_peer(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.line()
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        pytest.raises(client.ConnectError, match=r"within 0\.05 s"),
    ):
        kind.connect(peer.url, timeout=0.05)


def test_the_peer_closes_at_once(kind: Any, tmp_path: Path) -> None:
    with (
        Peer(tmp_path, lambda wire: wire.line()) as peer,
        pytest.raises(client.ConnectError, match="closed the connection"),
    ):
        kind.connect(peer.url)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("permission_denied", "it does not permit notifications"),
        (
            {"invalid_protocol_version": {"version": "1.2.0"}},
            "it speaks version 1.2.0 of the protocol",
        ),
    ],
)
def test_rejected(kind: Any, tmp_path: Path, reason: Any, text: str) -> None:
    def script(wire: Wire) -> None:
        assert wire.line()["connect"]["subscribe_notifications"]
        wire.send({"connect_nack": reason})

    with Peer(tmp_path, script) as peer, pytest.raises(client.RejectedError, match=text):
        kind.connect(peer.url, subscribe=True)


@pytest.mark.parametrize(
    "message",
    [
        {"request": "ident"},
        {"connect_ack": None},
        {"response": {"list": []}},
        {"response": {"nope": []}},
        "HTTP/1.1 400 Bad Request",
    ],
)
def test_a_peer_that_is_no_runtime_is_disconnected(kind: Any, tmp_path: Path, message: Any) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("ident", message)

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c, pytest.raises(ProtocolError):
        c.ident()


def test_an_unexpected_first_message(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.line()
        wire.send({"notification": "shutdown"})

    with (
        Peer(tmp_path, script) as peer,
        pytest.raises(client.ConnectError, match="Shutdown is received before connect"),
    ):
        kind.connect(peer.url)


def test_an_answer_without_request(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("ident", *2 * [{"response": {"ident": "a:1.0.0"}}])
        wire.stream.shutdown(socket.SHUT_WR)
        wire.file.read()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        # The second answer may be received with the first one or after it.
        with contextlib.suppress(ProtocolError):
            c.ident()
        with pytest.raises(ProtocolError, match="answers no request"):
            c.ident()


def test_the_end_of_the_connection_ends_the_request(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        for _ in range(2):
            with pytest.raises(client.DisconnectedError):
                c.list()


def test_the_last_line_needs_no_newline(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        wire.stream.sendall(b'{"response":{"ident":"a:1.0.0"}}')

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        assert c.ident() == A


def test_single_bytes_are_received(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        for (
            byte
        ) in b'{"notification":{"started":"b:2.0.0"}}\r\n{"response":{"list":["a:1.0.0"]}}\n':
            wire.stream.sendall(bytes([byte]))
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        assert c.list() == (A,)


def test_trace_has_every_line_of_both_directions(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("list", {"notification": "shutdown"}, {"response": {"list": []}})

    lines: list[bytes] = []
    with Peer(tmp_path, script) as peer, kind.connect(peer.url, trace=lines.append) as c:
        c.list()
    assert lines == [
        b'{"connect":{"version":"0.9.2","subscribe_notifications":false,"extended":true}}\n',
        b'{"connect_ack": null}\n',
        b'{"request":"list"}\n',
        b'{"notification": "shutdown"}\n',
        b'{"response": {"list": []}}\n',
    ]


def test_invalid_requests_are_not_sent(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        for method, arguments in (
            ("kill", (A, 2**31)),
            ("start", (A, "/x\0")),
            ("start", (A, "/\udcff")),
            ("token_verify", (b"short", "u", b"")),
            ("inspect", ("a:1",)),
            ("inspect", ("a b",)),
            ("mount", ("", "a:1.0.0")),
            ("start", (A, "/sh", "-c")),
        ):
            with pytest.raises(InvalidValueError):
                getattr(c, method)(*arguments)
        with pytest.raises(InvalidValueError, match="size: is not an integer"):
            c.install(BytesIO(), "r", size=-1)
        assert c.ident() == A


# Notifications


def test_notifications_until_the_shutdown(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(subscribe=True)
        wire.send({"notification": {"started": "a:1.0.0"}})
        wire.answer(
            "ident",
            {"notification": {"install": "b:2.0.0"}},
            {"response": {"ident": "a:1.0.0"}},
            {"notification": "shutdown"},
            {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 3}}]}},
        )

    with Peer(tmp_path, script) as peer, kind.connect(peer.url, subscribe=True) as c:
        assert c.ident() == A
        assert list(c.notifications()) == [
            notification.Started(A),
            notification.Install(B),
            notification.Shutdown(),
            notification.Exit(A, Exited(3)),
        ]


def test_notifications_end_with_the_connection(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(subscribe=True)
        wire.send({"notification": {"started": "a:1.0.0"}})

    with Peer(tmp_path, script) as peer, kind.connect(peer.url, subscribe=True) as c:
        notifications = c.notifications()
        assert next(notifications) == notification.Started(A)
        with pytest.raises(client.DisconnectedError):
            next(notifications)


def test_notifications_need_a_subscription(kind: Any, tmp_path: Path) -> None:
    with (
        Peer(tmp_path, Wire.greet) as peer,
        kind.connect(peer.url) as c,
        pytest.raises(InvalidValueError, match="subscribe=True"),
    ):
        next(c.notifications())


def test_unread_notifications_are_limited(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("northstar.client.session.QUEUE_MAX", 2)

    def script(wire: Wire) -> None:
        wire.greet(subscribe=True)
        flood = 5 * [{"notification": {"started": "a:1.0.0"}}]
        wire.answer("ident", *flood, {"response": {"ident": "a:1.0.0"}})
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url, subscribe=True) as c:
        c.ident()
        notifications = c.notifications()
        assert [next(notifications), next(notifications)] == 2 * [notification.Started(A)]
        with pytest.raises(client.NotificationsLostError):
            next(notifications)
        assert c.ident() == A


# Install


def receive(wire: Wire, package: bytes) -> None:
    assert wire.line() == {"request": {"install": {"repository": "r", "size": len(package)}}}
    assert wire.read(len(package)) == package


PACKAGE = bytes(range(256)) * 4000


@pytest.mark.parametrize("form", ["path", "text", "bytes", "stream"])
def test_install(kind: Any, tmp_path: Path, form: str) -> None:
    def script(wire: Wire) -> None:
        wire.greet(subscribe=True)
        receive(wire, PACKAGE)
        wire.send({"notification": {"install": "a:1.0.0"}}, {"response": {"install": OK_A}})
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    path = tmp_path / "package.npk"
    path.write_bytes(PACKAGE)
    package: Any = {
        "path": path,
        "text": str(path),
        "bytes": PACKAGE,
        "stream": BytesIO(PACKAGE + b"more"),
    }[form]
    progress: list[tuple[int, int]] = []
    with Peer(tmp_path, script) as peer, kind.connect(peer.url, subscribe=True) as c:
        size = len(PACKAGE) if form == "stream" else None
        installed = c.install(package, "r", size=size, progress=lambda *p: progress.append(p))
        assert installed == A
        assert c.ident() == A
    assert progress[-1] == (len(PACKAGE), len(PACKAGE))
    assert progress == sorted(progress)


def test_install_while_notifications_come(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(subscribe=True)
        wire.line()
        # More than the socket buffer holds: a client that only sends would block forever.
        for _ in range(100):
            wire.send(*200 * [{"notification": {"started": "a:1.0.0"}}])
            wire.read(len(PACKAGE) // 100)
        wire.send({"response": {"install": OK_A}})
        wire.expect_end()

    assert len(PACKAGE) % 100 == 0
    with Peer(tmp_path, script) as peer, kind.connect(peer.url, subscribe=True) as c:
        assert c.install(PACKAGE, "r") == A


def test_install_refused(kind: Any, tmp_path: Path) -> None:
    refusal = {"invalid_repository": {"repository": "r"}}

    def script(wire: Wire) -> None:
        wire.greet()
        receive(wire, b"12345")
        wire.send({"response": {"install": {"error": {"error": refusal}}}})
        receive(wire, b"")
        wire.send({"response": {"install": {"error": {"error": {"unexpected": {"error": "x"}}}}}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        with pytest.raises(api.RefusedError, match="there is no repository 'r'"):
            c.install(b"12345", "r")
        with pytest.raises(api.RefusedError, match="x"):
            c.install(b"", "r")


def test_install_is_interrupted_by_the_runtime(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as c,
        pytest.raises(client.DisconnectedError, match=f"of {len(PACKAGE)} bytes"),
    ):
        c.install(PACKAGE, "r")


def test_install_is_interrupted_with_an_error(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        request = wire.line()["request"]
        wire.send({"response": {"permission_denied": request}})

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as c,
        pytest.raises(client.PermissionDeniedError, match="'install'"),
    ):
        c.install(PACKAGE, "r")


def test_a_package_that_is_too_short_closes_the_connection(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        assert wire.file.read() == b"1234"

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        with pytest.raises(NorthstarError, match="ends after 4 bytes; its given size is 5"):
            c.install(BytesIO(b"1234"), "r", size=5)
        with pytest.raises(NorthstarError):
            c.ident()


def test_a_package_that_cannot_be_read_changes_nothing(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    os.mkfifo(tmp_path / "fifo")
    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as c:
        with pytest.raises(FileNotFoundError):
            c.install(tmp_path / "none", "r")
        with pytest.raises(IsADirectoryError):
            c.install(tmp_path, "r")
        with pytest.raises(InvalidValueError, match="size"):
            c.install(BytesIO(b"x"), "r")
        assert c.ident() == A


# In a container


def test_from_env(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(wire: Wire) -> None:
        wire.greet(subscribe=True)
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer:
        inherited = socket.socket(socket.AF_UNIX)
        inherited.connect(peer.url.removeprefix("unix://"))
        monkeypatch.setenv(address.CONSOLE, str(inherited.detach()))
        with kind.from_env(subscribe=True) as c:
            assert c.ident() == A
        with pytest.raises(InvalidValueError, match="no open socket"):
            kind.from_env()


def test_tcp(kind: Any, localhost: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:

        def script() -> None:
            with listener.accept()[0] as stream:
                wire = Wire(stream)
                with wire.file:
                    wire.greet()
                    wire.answer("ident", {"response": {"ident": "a:1.0.0"}})

        done = pool.submit(script)
        # localhost may have a second address, where no program listens.
        with kind.connect(f"tcp://{localhost}:{listener.getsockname()[1]}") as c:
            assert c.ident() == A
        done.result()


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_an_invalid_host(kind: Any, host: str) -> None:
    with pytest.raises(client.ConnectError, match=f"cannot connect to tcp://{host}: "):
        kind.connect(f"tcp://{host}")
