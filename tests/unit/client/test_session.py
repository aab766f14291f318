"""The client's side of the protocol, without I/O; and features of the blocking client only."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar import api
from northstar.api import notification, request, response
from northstar.client import DisconnectedError, NoAnswerError, PermissionDeniedError
from northstar.client.blocking import Client
from northstar.client.session import Call, Session
from northstar.model import Container, NorthstarError, ProtocolError
from tests.unit.client.peer import Peer, Wire

A = Container.parse("a:1.0.0")


@given(
    # True is an answer, False a notification.
    st.lists(st.booleans(), max_size=10),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_the_same_in_pieces_of_any_size(order: list[bool], pieces: list[int]) -> None:
    session = Session(subscribe=True)
    stream = session_bytes(order)
    session.connect()
    calls = [session.request(request.List())[0] for _ in range(sum(order))]
    position = 0
    while position < len(stream):
        size = pieces[position % len(pieces)]
        session.receive(stream[position : position + size])
        position += size
    for number, call in enumerate(calls):
        assert len(call.result(response.List).containers) == number
    taken = iter(session.next_notification, None)
    assert list(taken) == (len(order) - sum(order)) * [notification.Started(A)]
    assert session.error is None


def session_bytes(order: list[bool]) -> bytes:
    lines = [api.encode(api.ConnectAck())]
    answered = 0
    for answer in order:
        if answer:
            lines.append(api.encode(response.List(answered * (A,))))
            answered += 1
        else:
            lines.append(api.encode(notification.Started(A)))
    return b"".join(lines)


@given(st.binary(max_size=200))
def test_any_bytes_are_processed_or_rejected(data: bytes) -> None:
    session = Session(subscribe=False)
    call, _ = session.request(request.Ident())
    try:
        session.receive(data)
        session.end()
    except NorthstarError as error:
        assert session.error is error
    assert session.error is not None
    assert call.done
    with pytest.raises(NorthstarError):
        session.request(request.Ident())


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("northstar.client.session.LINE_MAX", 100)
    session = Session(subscribe=False)
    session.receive(b" " * 100)
    with pytest.raises(ProtocolError, match="does not end"):
        session.receive(b" ")


def test_an_answer_to_another_request() -> None:
    call = Call(request.Ident())
    call.finish(response.List(()))
    with pytest.raises(ProtocolError, match="answers Ident with List"):
        call.result(response.Ident)


def test_an_answer_that_comes_too_late_is_dropped(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        assert wire.line() == {"request": "list"}
        assert wire.line() == {"request": "ident"}
        wire.send({"response": {"list": []}}, {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, Client.connect(peer.url) as client:
        client._timeout = 0.01
        with pytest.raises(NoAnswerError, match=r"within 0\.01 s"):
            client.list()
        client._timeout = 10
        assert client.ident() == A


def test_an_interrupted_install_closes_the_connection(tmp_path: Path) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        wire.read(2**20)
        wire.expect_end()

    def interrupt(sent: int, _: int) -> None:
        if sent >= 2**20:
            raise KeyboardInterrupt

    with Peer(tmp_path, script) as peer, Client.connect(peer.url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.install(bytes(2**22), "r", progress=interrupt)
        with pytest.raises(DisconnectedError, match="closed by this client"):
            client.ident()


def test_a_runtime_that_does_not_read() -> None:
    local, remote = socket.socketpair()
    remote.sendall(b'{"connect_ack":null}\n')
    with (
        remote,
        Client(local, timeout=0.05) as client,
        pytest.raises(NoAnswerError, match=r"took nothing within 0\.05 s"),
    ):
        client.install(bytes(2**24), "r")


def test_many_inspections_at_once(tmp_path: Path) -> None:
    containers = [f"a{number}:1.0.0" for number in range(50)]

    def script(wire: Wire) -> None:
        wire.greet()
        # All that are sent before any answer; after that, one is sent per answer.
        asked = [wire.line()["request"]["inspect"] for _ in range(32)]
        for number, container in enumerate(containers):
            assert asked[number] == {"container": container}
            if number == 1:
                refusal = {"container": container, "error": {"invalid_container": asked[number]}}
                wire.send({"response": {"inspect": {"error": refusal}}})
            elif number == 2:
                wire.send({"response": {"permission_denied": {"inspect": asked[number]}}})
            else:
                data = {"manifest": {"name": container}, "repository": "", "mounted": False}
                answer = {"container": container, "data": data}
                wire.send({"response": {"inspect": {"ok": answer}}})
            if number + 32 < len(containers):
                asked.append(wire.line()["request"]["inspect"])
        wire.answer("ident", {"response": {"ident": "a:1.0.0"}})
        wire.expect_end()

    with Peer(tmp_path, script) as peer, Client.connect(peer.url) as client:
        answers = list(client.inspect_all(containers))
        assert isinstance(answers.pop(1), api.RefusedError)
        assert isinstance(answers.pop(1), PermissionDeniedError)
        names = [answer.manifest["name"] for answer in answers if not isinstance(answer, Exception)]
        assert names == containers[:1] + containers[3:]
        assert client.ident() == A
