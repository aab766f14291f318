"""Northstar 0.9.2 reads every message of ours as the same value, and conversely."""

from __future__ import annotations

import json
import random
from typing import Any, get_args

import pytest
from hypothesis import strategies as st

from northstar import api
from northstar.api import request, response
from northstar.model import (
    Container,
    Exited,
    ExitStatus,
    ProtocolError,
    Signalled,
    Version,
)
from tests import vectors
from tests.interop import differences
from tests.interop.reference import ask, examples
from tests.unit.api import test_codec as codec
from tests.unit.manifest import strategies

COUNT = 60
"""Number of messages of each kind."""

MUTATIONS = 5000

PIECES = [
    *'{}[]:,"\\ \t0123456789-+.eE', "null", "true", '""', "{}", "[]", ',"x":1', "\\u0041",
    "\\ud800", "\\n", "\0", "é", "1.0", "1e2", "-0", "18446744073709551616", "a:1.0.0", ":", "=",
]  # fmt: skip

# What our runtime sends: exit codes and signals are those of Linux, and the manifest in an answer
# is one. (Our reader takes any object there: a client should understand other versions.)
STATUSES = st.builds(Exited, st.integers(0, 255)) | st.builds(Signalled, st.integers(1, 64))
MANIFESTS = (
    strategies.manifests.map(differences.as_reference)
    .filter(lambda view: view is not None)
    .map(lambda view: json.loads(json.dumps(view)))
)


def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for messages of a kind, as a runtime or a client sends them."""
    if kind is response.Inspect:
        process = codec.values(response.Process | None)
        data = st.builds(response.ContainerData, MANIFESTS, st.text(), st.booleans(), process)
        ok = st.builds(response.InspectOk, codec.values(Container), data)
        return st.builds(response.Inspect, ok | codec.values(response.Failed))
    if kind is response.PermissionDenied:
        return st.builds(kind, codec.values(request.PlainRequest))
    if kind is api.Connect:
        return st.builds(kind, codec.values(Version), st.booleans())
    if kind is api.ConnectAck:
        return st.builds(kind)
    return codec.values(kind)


@pytest.fixture(autouse=True)
def exit_statuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit statuses of Linux, in every message."""
    monkeypatch.setitem(codec.SIMPLE, ExitStatus, STATUSES)


def comparable(message: Any) -> str:
    """Return a text that is equal for equal messages: unordered members are sorted."""
    return json.dumps(_sorted(message), sort_keys=True)


def _sorted(message: Any) -> Any:
    match message:
        case {"response": {"inspect": {"ok": {"data": {"manifest": dict(form)}}}}}:
            message = json.loads(json.dumps(message))
            message["response"]["inspect"]["ok"]["data"]["manifest"] = differences.comparable(form)
        case {"response": {"repositories": list(names)}}:
            return {"response": {"repositories": sorted(set(names))}}
    return message


def rewritten(message: Any) -> bytes:
    """Read a message of Northstar 0.9.2, and write it."""
    return api.encode(api.decode(json.dumps(message).encode()))


def mutated(line: str, random_: random.Random) -> str:
    """Return a line with one or two small changes."""
    for _ in range(random_.choice((1, 1, 2))):
        at = random_.randint(0, len(line))
        match random_.randrange(4):
            case 0:
                line = line[:at] + line[at + random_.randint(1, 4) :]
            case 1:
                line = line[:at] + random_.choice(PIECES) + line[at:]
            case 2:
                line = line[:at] + random_.choice(PIECES) + line[at + 1 :]
            case _:
                end = min(len(line), at + random_.randint(1, 30))
                line = line[:end] + line[at:end] + line[end:]
    return line


@pytest.mark.parametrize("kind", codec.PLAIN, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_the_reference_reads_our_messages(kind: Any) -> None:
    lines = [api.encode(message).decode() for message in examples(messages(kind), COUNT)]
    for line, answer in zip(lines, ask("messages", lines), strict=True):
        assert answer.error is None, f"{answer.error}: {line}"
        assert comparable(answer.ok) == comparable(json.loads(line)), line
        # Conversely, we read its output as the same message.
        assert comparable(json.loads(rewritten(answer.ok))) == comparable(answer.ok)


def test_the_reference_ignores_a_request_for_an_extended_connection() -> None:
    """So our clients may always send it. The answer can only be null for a client of 0.9.2."""
    version = codec.values(Version)
    for extended in (True, False):
        strategy = st.builds(api.Connect, version, st.booleans(), st.just(extended))
        asked = examples(strategy, COUNT)
        lines = [api.encode(connect).decode() for connect in asked]
        for connect, answer in zip(asked, ask("messages", lines), strict=True):
            plain = api.Connect(connect.version, connect.subscribe_notifications)
            assert answer.ok == json.loads(api.encode(plain))
    [answer] = ask("messages", [api.encode(api.ConnectAck(api.Features(()))).decode()])
    assert answer.error is not None


@pytest.mark.parametrize(
    "kind",
    [kind for kind in codec.KINDS if kind not in codec.PLAIN],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_the_reference_refuses_the_messages_of_extended_connections(kind: Any) -> None:
    """So a plain connection must have none of them."""
    lines = [api.encode(message).decode() for message in examples(messages(kind), COUNT)]
    assert all(answer.error is not None for answer in ask("messages", lines))


@pytest.mark.parametrize("kind", get_args(api.Error), ids=lambda kind: kind.__name__)
def test_the_reference_reads_every_error(kind: Any) -> None:
    answers = [
        response.Install(response.InstallFailed(e)) for e in examples(codec.values(kind), COUNT)
    ]
    lines = [api.encode(answer).decode() for answer in answers]
    for line, answer in zip(lines, ask("messages", lines), strict=True):
        assert answer.error is None, f"{answer.error}: {line}"
        assert answer.ok == json.loads(line)


def test_the_reference_agrees_with_the_vectors() -> None:
    found = [parameter.values[0] for parameter in vectors.load("message")]
    for vector, answer in zip(found, ask("messages", [v["input"] for v in found]), strict=True):
        assert (answer.error is not None) == ("error" in vector), vector
        if "ok" in vector:
            assert answer.ok == vector["ok"], vector


def test_both_refuse_the_same_lines() -> None:
    """Of almost valid lines both accept the same."""
    random_ = random.Random(1)
    found = [parameter.values[0] for parameter in vectors.load("message")]
    seeds = [vector["input"] for vector in found if "ok" in vector]
    lines = [mutated(random_.choice(seeds), random_) for _ in range(MUTATIONS)]
    both = 0
    for line, answer in zip(lines, ask("messages", lines), strict=True):
        try:
            ours = json.loads(api.encode(api.decode(line.encode())))
        except ProtocolError as error:
            # Stricter: the name of a container is also a path component.
            dots = "'.' is not a name" in str(error) or "'..' is not a name" in str(error)
            assert dots or answer.error is not None, f"{error}: {line}"
            continue
        assert answer.error is None, f"{answer.error}: {line}"
        assert answer.ok == ours, line
        both += 1
    assert both > MUTATIONS // 50, both
