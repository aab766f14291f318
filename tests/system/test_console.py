"""Every request, permission and error of the console, over real connections to a real runtime.

The limits and the closing of connections are tested with the console alone
(tests/unit/runtime/console), over real sockets as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error
from northstar.client import PermissionDeniedError, RejectedError
from northstar.model import Permission
from tests.system.containers import install, lines, refused, run
from tests.system.harness import RuntimeProcess, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True

CONTAINER = {"container": "target:1.0.0"}
START = {**CONTAINER, "arguments": [], "environment": {}}

REQUESTS: dict[Permission, list[Any]] = {
    Permission.IDENT: ["ident"],
    Permission.INSPECT: [{"inspect": CONTAINER}],
    Permission.INSTALL: [{"install": {"repository": "nope", "size": 0}}],
    Permission.KILL: [{"kill": {**CONTAINER, "signal": 0}}],
    Permission.LIST: ["list"],
    Permission.MOUNT: [{"mount": {"containers": []}}],
    Permission.REPOSITORIES: ["repositories"],
    Permission.START: [{"start": {"container": "nope:1.0.0", "arguments": [], "environment": {}}}],
    Permission.START_COMMAND: [
        {"start": {"container": "nope:1.0.0", "init": "/x", "arguments": [], "environment": {}}},
        {"start": {"container": "nope:1.0.0", "arguments": ["x"], "environment": {}}},
        {"start": {"container": "nope:1.0.0", "arguments": [], "environment": {"A": "b"}}},
    ],
    Permission.TOKEN_CREATE: [{"token_create": {"target": "x", "shared": "aGk="}}],
    Permission.TOKEN_VERIFICATION: [
        {"token_verify": {"token": "A" * 54 + "==", "user": "x", "shared": ""}}
    ],
    Permission.UMOUNT: [{"umount": {"containers": []}}],
    Permission.UNINSTALL: [{"uninstall": {"container": "nope:1.0.0", "wipe": False}}],
}
"""Harmless requests by the permission that they need; shutdown and notifications follow below."""


def connect(subscribe: bool = False) -> str:
    message = {"connect": {"version": "0.9.2", "subscribe_notifications": subscribe}}
    return json.dumps(message)


def conversation(
    runtime: RuntimeProcess, payload: Path, permissions: list[str] | str, *messages: str
) -> list[Any]:
    """Run a container with these permissions that sends the messages; return the answers."""
    words: list[str] = []
    for message in messages:
        words += ["console", message, ";"]
    container = install(
        runtime, payload, "talker", args=words[:-1], console={"permissions": permissions}
    )
    answers = [json.loads(line["text"]) for line in run(runtime, container)]
    with runtime.client() as client:
        client.uninstall(container)
    return answers


@pytest.mark.parametrize("held", [*REQUESTS, None], ids=lambda p: p.value if p else "none")
def test_each_permission_allows_its_requests_and_no_others(
    runtime: RuntimeProcess, payload: Path, held: Permission | None
) -> None:
    sent = [(need, request) for need, requests in REQUESTS.items() for request in requests]
    messages = [json.dumps({"request": request}) for _, request in sent]
    ack, *answers = conversation(
        runtime, payload, [held.value] if held else [], connect(), *messages
    )
    assert ack == {"connect_ack": None}
    for (need, request), answer in zip(sent, answers, strict=True):
        denied = "permission_denied" in answer["response"]
        assert denied is (need is not held), f"{request}: {answer}"
        if denied:
            denial = api.decode(json.dumps(answer).encode())
            assert isinstance(denial, api.response.PermissionDenied)
            assert denial.request == api.decode(json.dumps({"request": request}).encode())


def test_subscribing_needs_its_permission(runtime: RuntimeProcess, payload: Path) -> None:
    (answer,) = conversation(runtime, payload, ["list"], connect(subscribe=True))
    assert answer == {"connect_nack": "permission_denied"}
    (answer,) = conversation(runtime, payload, ["notifications"], connect(subscribe=True))
    assert answer == {"connect_ack": None}


def test_shutdown_needs_its_permission(make_runtime: Callable[..., Any], payload: Path) -> None:
    runtime = make_runtime()
    shutdown = json.dumps({"request": "shutdown"})
    _, answer = conversation(runtime, payload, ["list"], connect(), shutdown)
    assert answer == {"response": {"permission_denied": "shutdown"}}
    words = ["ignore", "TERM", ";", "console", connect(), ";", "console", shutdown]
    permissions = {"permissions": ["shutdown"]}
    container = install(runtime, payload, "talker", args=words, console=permissions)
    since = len(runtime.text())
    with runtime.client() as client:
        client.start(container)
    runtime.wait_exit()
    assert json.loads(lines(runtime, container, since=since)[-1]["text"]) == {
        "response": "shutdown"
    }


def test_ident_and_tokens_of_a_container(runtime: RuntimeProcess, payload: Path) -> None:
    ident = json.dumps({"request": "ident"})
    create = json.dumps({"request": {"token_create": {"target": "extern", "shared": "aGk="}}})
    _, who, answer = conversation(runtime, payload, "full", connect(), ident, create)
    assert who == {"response": {"ident": "talker:1.0.0"}}
    token = api.decode(json.dumps(answer).encode())
    assert isinstance(token, api.response.TokenCreate)
    with runtime.client() as client:
        verify = client.token_verify
        assert verify(token.token, "talker", b"hi").value == "Ok"
        assert verify(token.token, "other", b"hi").value == "Invalid"
        assert verify(token.token, "talker", b"ho").value == "Invalid"
        assert verify(bytes([255]) + token.token[1:], "talker", b"hi").value == "Future"
        assert verify(bytes(8) + token.token[8:], "talker", b"hi").value == "Expired"


def test_every_error_of_a_request(runtime: RuntimeProcess, payload: Path) -> None:
    resource = {"type": "resource", "name": "res", "version": "^2", "dir": "/"}
    install(runtime, payload, "res", init=None)
    app = install(runtime, payload, "app", args=["pause"])
    other = install(runtime, payload, "app", version="2.0.0")
    broken = install(runtime, payload, "broken", init="/nothing")
    needy = install(runtime, payload, "needy", mounts={"/r": resource})
    met: list[error.Error] = []
    with runtime.client() as client:
        client.start(app)
        calls: list[Callable[[], object]] = [
            lambda: client.inspect("nope:1.0.0"),
            lambda: client.start("nope:1.0.0"),
            lambda: client.kill("nope:1.0.0"),
            lambda: client.uninstall("nope:1.0.0"),
            lambda: client.start(other),
            lambda: client.start("res:1.0.0"),
            lambda: client.start(needy),
            lambda: client.start(broken),
            lambda: client.start(broken, environment={"NORTHSTAR_NAME": "x"}),
            lambda: client.kill(other),
            lambda: client.kill(app, 77),
            lambda: client.uninstall(app),
            lambda: client.install(b"junk", "nope"),
            lambda: client.install(b"junk", "mem"),
        ]
        met = [refused(call) for call in calls]
        (failed,) = client.umount(app)
        assert isinstance(failed, api.response.Failed)
        client.kill(app, 9)
        wait_until(lambda: client.inspect(app).process is None, "it has ended")
    assert [type(e).__name__ for e in [*met, failed.error]] == [
        *["InvalidContainer"] * 4,
        "StartContainerStarted",
        "StartContainerResource",
        "StartContainerMissingResource",
        "StartContainerFailed",
        "InvalidArguments",
        "StopContainerNotStarted",
        "Unexpected",
        "UmountBusy",
        "InvalidRepository",
        "Unexpected",
        "UmountBusy",
    ]


def test_the_global_console_has_the_permissions_of_its_configuration(
    make_runtime: Callable[..., Any],
) -> None:
    runtime = make_runtime(permissions='["list", "ident"]')
    with runtime.client() as client:
        assert client.list() == ()
        assert str(client.ident()) == "extern:0.0.0"
        with pytest.raises(PermissionDeniedError):
            client.repositories()
    with pytest.raises(RejectedError, match="does not permit notifications"):
        runtime.client(subscribe=True)
