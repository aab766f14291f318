"""Processes of both clients, against a scripted runtime."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from northstar import client as package
from northstar.api import RefusedError
from northstar.client import DisconnectedError, MissingFeatureError, blocking
from northstar.model import Exited, InvalidValueError, ProtocolError, Signalled
from tests.unit.client.peer import CLIENTS, Peer, Wire

FEATURES = ["service", "exec"]
REQUEST = {
    "exec": {
        "container": "a:1.0.0",
        "command": ["/bin/cat", "-u"],
        "environment": {"A": "b"},
        "stdin": True,
        "tty": None,
    }
}

both = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])


def output(stream: str, data: bytes) -> Any:
    return {"stream": {stream: base64.b64encode(data).decode()}}


def answer(status: Any) -> Any:
    return {"response": {"exec": {"ok": {"container": "a:1.0.0", "status": status}}}}


EXIT_7 = answer({"exit": {"code": 7}})


def read_input(wire: Wire) -> bytes:
    """Read messages up to the end of the input."""
    data = b""
    while (message := wire.line()) != {"stream": "stdin_end"}:
        piece = base64.b64decode(message["stream"]["stdin"])
        assert 0 < len(piece) <= 16 * 1024
        data += piece
    return data


@both
def test_run(kind: Any, tmp_path: Path) -> None:
    sent = bytes(range(256)) * 200

    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        assert wire.line() == {"request": REQUEST}
        assert read_input(wire) == sent
        wire.send(output("stdout", b"o\0"), output("stderr", b"e"), output("stdout", b"2"), EXIT_7)
        wire.answer("ident", {"response": {"ident": "extern:0.0.0"}})

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as client:
        done = client.run("a:1.0.0", ["/bin/cat", "-u"], sent, {"A": "b"})
        assert done == (Exited(7), b"o\x002", b"e")
        assert client.ident()


@both
def test_without_input(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        assert wire.line()["request"]["exec"]["stdin"] is False
        wire.send(answer({"signalled": {"signal": 9}}))

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as client:
        assert client.run("a:1.0.0", ["/x"]) == (Signalled(9), b"", b"")


@both
def test_a_refusal(kind: Any, tmp_path: Path) -> None:
    refusal = {"container": "a:1.0.0", "error": {"unexpected": {"error": "no such thing"}}}

    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        wire.line()
        wire.send({"response": {"exec": {"error": refusal}}})

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(RefusedError, match="no such thing"),
    ):
        client.run("a:1.0.0", ["/x"], b"")


@both
def test_the_end_of_the_connection(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        wire.line()
        wire.send(output("stdout", b"part"))

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(DisconnectedError),
    ):
        client.run("a:1.0.0", ["/x"])


@both
def test_an_old_runtime(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=["service"])
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as client:
        message = 'this runtime cannot do that: it has no feature "exec"'
        with pytest.raises(MissingFeatureError, match=message):
            client.run("a:1.0.0", ["/x"])


@both
@pytest.mark.parametrize(
    "command", ["/bin/sh", b"/bin/sh", ["a\0b"], ["\udcff"]], ids=["str", "bytes", "nul", "utf8"]
)
def test_invalid_commands_are_not_sent(kind: Any, tmp_path: Path, command: Any) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(InvalidValueError),
    ):
        client.run("a:1.0.0", command)


@both
def test_output_without_an_exec_violates_the_protocol(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        wire.line()
        wire.send(output("stdout", b"x"))

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(ProtocolError, match="no process is being executed"),
    ):
        client.list()


def test_a_blocking_process(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        assert wire.line()["request"]["exec"]["tty"] == {"rows": 3, "columns": 4}
        wire.send(output("stdout", b"a"))
        assert wire.line() == output("stdin", b"in")
        assert wire.line() == {"stream": {"resize": {"rows": 5, "columns": 6}}}
        assert wire.line() == {"stream": {"signal": 2}}
        wire.send(output("stdout", b"b"), EXIT_7)
        wire.answer("ident", {"response": {"ident": "extern:0.0.0"}})
        # Closed during an exec, the connection ends.
        wire.line()
        wire.expect_end()

    with Peer(tmp_path, script) as peer, blocking.Client.connect(peer.url) as client:
        with client.exec("a:1.0.0", ["/x"], tty=(3, 4)) as process:
            found = process.output()
            assert next(found) == ("stdout", b"a")
            process.write(b"in")
            process.resize(5, 6)
            with pytest.raises(InvalidValueError):
                process.send_signal(32)
            with pytest.raises(InvalidValueError, match="takes no other request"):
                client.ident()
            process.send_signal(2)
            assert list(found) == [("stdout", b"b")]
            assert process.wait() == Exited(7)
            process.write(b"dropped")
            process.close_stdin()
        assert client.ident()
        with client.exec("a:1.0.0", ["/x"]):
            pass
        with pytest.raises(DisconnectedError):
            client.ident()


def test_an_asyncio_process(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        wire.line()
        wire.send(*[output("stdout", b"x")] * 1000)
        assert wire.line() == output("stdin", b"in")
        wire.send(EXIT_7)
        wire.answer("ident", {"response": {"ident": "extern:0.0.0"}})
        wire.line()
        assert wire.line() == {"stream": "stdin_end"}
        wire.expect_end()

    async def test() -> None:
        async with await package.Client.connect(peer.url) as client:
            process = await client.exec("a:1.0.0", ["/x"])
            seen = 0
            async for stream, data in process.output():
                assert stream == "stdout"
                seen += len(data)
                if seen == 1000:
                    await process.write(b"in")
            assert seen == 1000
            assert await process.wait() == Exited(7)
            await process.write(b"dropped")
            assert await client.ident()
            # A cancelled run ends the connection, and so the process.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.run("a:1.0.0", ["/x"])
            with pytest.raises(DisconnectedError):
                await client.ident()

    with Peer(tmp_path, script) as peer:
        asyncio.run(test())


def test_an_asyncio_process_that_is_not_read(tmp_path: Path) -> None:
    """Without a reader its output is not kept; then `wait` drops it."""

    def script(wire: Wire) -> None:
        wire.greet(features=FEATURES)
        wire.line()
        wire.send(*[output("stdout", bytes(16384))] * 1000, EXIT_7)
        wire.answer("ident", {"response": {"ident": "extern:0.0.0"}})

    async def test() -> None:
        async with await package.Client.connect(peer.url) as client:
            process = await client.exec("a:1.0.0", ["/x"])
            while client._session.unread_output < 64:  # noqa: ASYNC110 - set by the connection
                await asyncio.sleep(0.001)
            for _ in range(20):
                await asyncio.sleep(0.001)
            # A part of one read from the socket more, at most.
            assert client._session.unread_output < 128
            assert await process.wait() == Exited(7)
            assert await client.ident()

    with Peer(tmp_path, script) as peer:
        asyncio.run(test())
