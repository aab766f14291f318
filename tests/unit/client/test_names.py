"""Containers given by name only, and arguments as any sequence, with both clients."""

from __future__ import annotations

from collections import UserList, deque
from pathlib import Path
from typing import Any

import pytest

from northstar.client import NameLookupError, PermissionDeniedError
from northstar.client.blocking import Client
from northstar.model import Container, InvalidValueError, Name
from tests.unit.client.peer import CLIENTS, Peer, Wire
from tests.unit.client.test_stop import ID, INSPECT, TERM, seen

both = pytest.mark.parametrize("kind", CLIENTS, ids=["blocking", "asyncio"])

A, B1, B2 = map(Container.parse, ("a:1.0.0", "b:1.0.0", "b:2.0.0"))
LIST = {"response": {"list": ["b:2.0.0", "a:1.0.0", "b:1.0.0"]}}


def start(**changes: Any) -> Any:
    return {"start": {**ID, "init": None, "arguments": [], "environment": {}, **changes}}


CALLS: dict[str, Any] = {
    "inspect": (INSPECT, seen(7)),
    "start": (start(), {"response": {"start": {"ok": ID}}}),
    "kill": (TERM, {"response": {"kill": {"ok": ID}}}),
    "mount": ({"mount": {"containers": ["a:1.0.0"]}}, {"response": {"mount": [{"ok": ID}]}}),
    "umount": ({"umount": {"containers": ["a:1.0.0"]}}, {"response": {"umount": [{"ok": ID}]}}),
    "uninstall": (
        {"uninstall": {**ID, "wipe": False}},
        {"response": {"uninstall": {"ok": ID}}},
    ),
}


@both
@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("name", ["a", Name("a")])
def test_a_name_means_its_only_installed_version(
    kind: Any, tmp_path: Path, method: str, name: str
) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("list", LIST)
        wire.answer(*CALLS[method])
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as client:
        getattr(client, method)(name)


@both
@pytest.mark.parametrize("method", ["stop", "wait"])
def test_a_name_that_is_stopped_or_waited_for(kind: Any, tmp_path: Path, method: str) -> None:
    def script(wire: Wire) -> None:
        wire.greet(True)
        wire.answer("list", {"notification": {"started": "a:1.0.0"}}, LIST)
        exited = {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 0}}]}}
        if method == "stop":
            wire.answer(TERM, exited, {"response": {"kill": {"ok": ID}}})
        else:
            wire.send(exited)
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url, subscribe=True) as client:
        getattr(client, method)("a")


@both
def test_several_names_take_one_list_request(kind: Any, tmp_path: Path) -> None:
    mount = {"mount": {"containers": ["b:2.0.0", "a:1.0.0", "a:1.0.0"]}}
    ok = {"response": {"mount": [{"ok": {"container": c}} for c in mount["mount"]["containers"]]}}

    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("list", LIST)
        wire.answer(mount, ok)
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as client:
        assert len(client.mount(B2, "a", "a:1.0.0")) == 3
        assert client.resolve("b:1.0.0", B2) == (B1, B2)
        assert client.resolve() == ()


@both
@pytest.mark.parametrize(
    ("name", "versions", "message"),
    [
        ("b", (B1, B2), "several versions of b are installed: b:1.0.0, b:2.0.0"),
        ("c", (), "no container c is installed"),
        # A name is not a part of one.
        ("", None, "a name must not be empty"),
    ],
)
def test_an_ambiguous_name(
    kind: Any, tmp_path: Path, name: str, versions: Any, message: str
) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        if versions is not None:
            wire.answer("list", LIST)
        wire.expect_end()

    wanted = InvalidValueError if versions is None else NameLookupError
    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(wanted, match=message) as caught,
    ):
        client.start(name)
    if isinstance(caught.value, NameLookupError):
        assert (caught.value.name, caught.value.versions) == (name, versions)


@both
def test_names_need_the_permission_to_list(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("list", {"response": {"permission_denied": "list"}})
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(PermissionDeniedError, match="which looks up the version of a") as caught,
    ):
        client.kill("a")
    assert caught.value.hint == "write it as a:VERSION"


def test_many_inspections_by_name(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("list", LIST)
        wire.answer(INSPECT, seen(7))
        wire.expect_end()

    with Peer(tmp_path, script) as peer, Client.connect(peer.url) as client:
        assert len(list(client.inspect_all(["a"]))) == 1


@both
@pytest.mark.parametrize("words", [["-c", "x"], ("-c", "x"), deque(["-c", "x"]), UserList("ab")])
def test_arguments_are_any_sequence(kind: Any, tmp_path: Path, words: Any) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        answer = {"response": {"start": {"ok": ID}}}
        wire.answer(start(init="/sh", arguments=list(words)), answer)
        wire.expect_end()

    with Peer(tmp_path, script) as peer, kind.connect(peer.url) as client:
        client.start(A, "/sh", words)


@both
def test_a_str_is_not_accepted_as_arguments(kind: Any, tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.expect_end()

    with (
        Peer(tmp_path, script) as peer,
        kind.connect(peer.url) as client,
        pytest.raises(InvalidValueError, match="'-c' are one text"),
    ):
        client.start("a", "/sh", "-c")
