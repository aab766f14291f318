"""The examples of docs/reference/protocol.md, sent to a real runtime in their order.

The runtime must answer each request by a message of the kind that the page shows. Sizes, tokens and
commands are replaced by those of the test; everything else is sent as it is printed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, get_args

import msgspec
import pytest

from northstar import api
from northstar.api import log, notification, request, response, stream
from northstar.npk import keylist
from northstar.npk.keylist import ListedKey, Use
from reference.examples import session
from reference.log_lines import STABLE
from tests.system.containers import PIPES, raw, split
from tests.system.harness import NO_KEY, TIMEOUT, RuntimeProcess, manifest, pack
from tests.system.test_keys import OLD, public

pytestmark = pytest.mark.root

SERVICE = {"stop": {"timeout": "5s"}, "update": {"window": "1s"}}


class Conversation:
    """An extended connection, with all messages that were received on it."""

    def __init__(self, runtime: RuntimeProcess) -> None:
        self._socket: socket.socket = raw(runtime)
        self._socket.settimeout(TIMEOUT)
        self._lines = self._socket.makefile("rb")
        self.received: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def send(self, message: api.Message, content: bytes = b"") -> None:
        self._socket.sendall(api.encode(message) + content)

    def receive(self, *kinds: type) -> Any:
        """Read messages up to one of these kinds, and return that."""
        while True:
            line = self._lines.readline()
            assert line, f"the connection was closed before {kinds}: {self.received[-3:]}"
            message = api.decode_extended(line)
            self.received.append(message)
            if isinstance(message, kinds):
                return message


def shape(message: Any) -> Any:
    """Return the kind of a response, and those of its results."""
    result = getattr(message, "result", getattr(message, "results", None))
    results = result if isinstance(result, tuple) else (result,)
    return type(message), {type(one) for one in results}


@pytest.fixture
def runtime(make_runtime: Callable[..., Any], store: Path, tmp_path: Path) -> RuntimeProcess:
    anchor = tmp_path / "keys.yaml"
    anchor.write_bytes(keylist.render(keylist.create(1, [ListedKey(public(OLD), Use.INSTALL)])))
    table = f'type = {{ fs = {{ dir = "{store}" }} }}\nkeys = "{anchor}"\nverity = "full"\n{NO_KEY}'
    made: RuntimeProcess = make_runtime(
        repositories={"apps": table},
        permissions='["full", "exec", "logs", "update"]',
        arguments=("--log-level", "debug"),
    )
    return made


def test_the_runtime_answers_as_the_page_shows(
    runtime: RuntimeProcess, payload: Path, tmp_path: Path
) -> None:
    packages = [
        pack(
            tmp_path,
            manifest("hello", version, args=split("ready ; pause"), io=PIPES, service=SERVICE),
            {"payload": payload},
            key=OLD,
        ).read_bytes()
        for version in ("1.0.0", "1.1.0")
    ]
    token = b""
    sent = []
    lines = [line.message for line in session()]
    wanted = {type(one): one for one in reversed(lines) if isinstance(one, api.Response)}
    with Conversation(runtime) as client:
        client.send(lines[0])
        assert client.receive(api.ConnectAck, api.ConnectNack) == lines[1]
        for example in lines:
            if not isinstance(example, api.Request):
                continue
            content = b""
            message: Any = example
            match example:
                case request.Install() | request.Update():
                    content = packages.pop(0)
                    message = msgspec.structs.replace(example, size=len(content))
                case request.TokenVerify():
                    message = msgspec.structs.replace(example, token=token)
                case request.Exec():
                    message = msgspec.structs.replace(example, command=("/payload", "ready"))
            client.send(message, content)
            if isinstance(example, request.Exec):
                for one in lines:
                    if isinstance(one, stream.Resize | stream.Stdin | stream.StdinEnd):
                        client.send(one)
            expected = wanted[getattr(response, type(example).__name__)]
            answer = client.receive(*get_args(api.Response))
            assert shape(answer) == shape(expected), example
            token = getattr(answer, "token", token)
            sent.append(type(example))
        client.receive(notification.Shutdown)
    assert set(sent) == set(get_args(api.Request))
    shown = {type(one) for one in lines}
    kinds = {type(one) for one in client.received}
    assert kinds <= shown
    assert {log.LogLine, stream.Stdout, *get_args(api.Notification)} - kinds == {
        notification.CGroup
    }
    runtime.wait_exit()
    assert_stable_lines(runtime.text())


SELDOM = ("Critical", "out of memory", "Wiping", "Container CONTAINER connected")
"""Lines of other tests: test_boot, test_oom, test_resources and services/test_commands."""


def assert_stable_lines(text: str) -> None:
    """Check that the lines for programs are in the log of a run with all requests."""
    for line, _ in STABLE:
        if not any(word in line for word in SELDOM):
            pattern = re.sub("[A-Z]{3,}", ".+", re.escape(line))
            assert re.search(f"{pattern}$", text, re.MULTILINE), line
