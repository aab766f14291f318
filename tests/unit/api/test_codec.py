"""Decoding and encoding: the vectors, every kind of message, and invalid lines."""

from __future__ import annotations

import base64
import enum
import functools
import json
import operator
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from northstar import api
from northstar.api import error, log, notification, request, response, stream
from northstar.api.codec import _decode
from northstar.api.shape import JsonObject, Length, MaxLength, NoNul, Range
from northstar.model import (
    Container,
    Exited,
    ExitStatus,
    InvalidValueError,
    Name,
    Permission,
    ProtocolError,
    Signalled,
    Version,
)
from tests import vectors

C = Container.parse("a:1.0.0")
START = b'{"request":{"start":{"container":"a:1.0.0","arguments":[],"environment":%s}}}'


# A strategy for every message, from the annotations that the codec uses. The tests check the codec
# itself: a value must be equal after it was encoded as JSON and decoded.

u64 = st.integers(0, 2**64 - 1)
names = st.from_regex(r"[0-9A-Za-z._-]{1,20}", fullmatch=True).filter(lambda n: n.strip("."))
versions = st.builds(Version, u64, u64, u64)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
i32 = st.integers(-(2**31), 2**31 - 1)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=10),
    bool: st.booleans(),
    bytes: st.binary(max_size=10),
    types.NoneType: st.none(),
    Container: st.builds(Container, names.map(Name), versions),
    Name: names.map(Name),
    Version: versions,
    ExitStatus: st.builds(Exited, i32) | st.builds(Signalled, i32),
    JsonObject: st.dictionaries(st.text(max_size=5), json_values, max_size=3),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    if kind in SIMPLE:
        return SIMPLE[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        match arguments[1]:
            case Range(low, high):
                return st.integers(low, high)
            case NoNul():
                return st.text(max_size=5).map(lambda text: text.replace("\0", ""))
            case Length(length):
                return st.binary(min_size=length, max_size=length)
            case MaxLength(length):
                return st.binary(max_size=min(length, 100))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if origin in (Union, types.UnionType):
        if types.NoneType in arguments:
            others = (a for a in arguments if a is not types.NoneType)
            return st.none() | values(functools.reduce(operator.or_, others))
        return st.one_of(*map(values, arguments))
    if issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, *(values(hints[field]) for field in kind.__struct_fields__))


OPENING = (api.Connect, api.ConnectAck, api.ConnectNack)
KINDS = get_args(api.Message)
PLAIN = [
    *OPENING,
    *get_args(request.PlainRequest),
    *get_args(response.PlainResponse),
    *get_args(notification.PlainNotification),
]


@pytest.mark.parametrize("vector", vectors.load("message"))
def test_vector(vector: dict[str, Any]) -> None:
    line = vector["input"].encode()
    if "error" in vector:
        with pytest.raises(ProtocolError):
            api.decode(line)
    else:
        message = api.decode(line)
        assert api.decode_extended(line) == message
        assert json.loads(api.encode(message)) == vector["ok"]


@pytest.mark.parametrize("vector", vectors.load("extended"))
def test_vector_of_an_extended_connection(vector: dict[str, Any]) -> None:
    line = vector["input"].encode()
    if "error" in vector:
        with pytest.raises(ProtocolError):
            api.decode_extended(line)
        return
    message = api.decode_extended(line)
    assert (None if message is None else json.loads(api.encode(message))) == vector["ok"]
    # Only the runtime sends the refusal of a request, so its reader need not know the connection.
    if not isinstance(message, (*OPENING, response.PermissionDenied)):
        with pytest.raises(ProtocolError):
            api.decode(line)


@pytest.mark.parametrize("name", ["inspect-cgroup-v1", "inspect-cgroup-v2"])
def test_inspect_answer_of_a_running_system(name: str) -> None:
    line = (vectors.DIRECTORY / f"{name}.json").read_bytes()
    message = api.decode(line)
    assert isinstance(message, response.Inspect)
    assert isinstance(message.result, response.InspectOk)
    process = message.result.data.process
    assert process is not None
    assert process.uptime_ns > 0
    assert json.loads(api.encode(message)) == json.loads(line)


def test_all_kinds_are_here() -> None:
    assert len(KINDS) == len(set(KINDS))
    assert set(PLAIN) < set(KINDS)
    for module, count in ((request, 20), (response, 21), (notification, 9), (log, 2), (stream, 6)):
        assert sum(kind.__module__ == module.__name__ for kind in KINDS) == count


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_kind_of_message_round_trips(kind: Any) -> None:
    @settings(max_examples=25)
    @given(values(kind))
    def round_trip(message: Any) -> None:
        line = api.encode(message)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        again = api.decode_extended(line)
        assert type(again) is kind
        assert again == message
        if kind in PLAIN:
            assert api.decode(line) == message
        else:
            with pytest.raises(ProtocolError, match=r" is unknown|not a message"):
                api.decode(line)

    round_trip()


@pytest.mark.parametrize("kind", get_args(api.Error), ids=lambda kind: kind.__name__)
def test_every_error_round_trips_and_is_one_sentence(kind: Any) -> None:
    @settings(max_examples=25)
    @given(values(kind))
    def round_trip(refusal: Any) -> None:
        answer = response.Install(response.InstallFailed(refusal))
        assert api.decode(api.encode(answer)) == answer
        assert str(api.RefusedError(refusal)) == str(refusal)

    round_trip()


def test_permission_denied_contains_the_request() -> None:
    answer = response.PermissionDenied(request.Kill(C, 9))
    assert json.loads(api.encode(answer)) == {
        "response": {"permission_denied": {"kill": {"container": "a:1.0.0", "signal": 9}}}
    }


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(line: bytes) -> None:
    for decode in (api.decode, api.decode_extended):
        try:
            decode(line)
        except ProtocolError as refusal:
            assert str(refusal)


@given(st.data())
def test_any_json_is_read_or_refused(data: st.DataObject) -> None:
    # A valid message with one value replaced reaches more code than random JSON.
    document = json.loads(api.encode(data.draw(values(data.draw(st.sampled_from(KINDS))))))
    place: Any = document
    while True:
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
        else:
            break
    place[key] = data.draw(json_values | st.floats(allow_nan=True))
    try:
        message = api.decode_extended(json.dumps(document).encode())
    except ProtocolError as refusal:
        assert str(refusal)
    else:
        assert message is None or api.decode_extended(api.encode(message)) == message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff", "invalid UTF-8 at byte 0"),
        (b'{"request":"\xed\xa0\x80"}', "invalid UTF-8 at byte 12"),
        (b'\xef\xbb\xbf{"request":"list"}', "invalid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 10_000, "invalid JSON"),
        (b'{"request":NaN}', "NaN"),
        (b'"list"', "is not an object"),
        (b'{"request":"li\nst"}', "invalid JSON"),
        (b'{"request":"list","request":"list"}', "request: is duplicated"),
        (b'{"request":{"list":null,"list":null}}', "request: an object of 2 members"),
        (
            b'{"request":{"kill":{"container":"a:1.0.0","signal":1,"signal":1}}}',
            "request.kill.signal: is duplicated",
        ),
        (b'{"request":"inspect"}', "request.inspect: is not an object"),
        (b'{"request":{"inspect":["a:1.0.0"]}}', "request.inspect: is not an object"),
        (
            b'{"request":{"kill":{"container":"a:1.0.0","signal":15.0}}}',
            "request.kill.signal: is not an integer",
        ),
        (
            b'{"request":{"kill":{"container":"a:1.0.0","signal":true}}}',
            "request.kill.signal: is not an integer",
        ),
        (
            b'{"request":{"kill":{"container":"a:1.0.0","signal":2147483648}}}',
            "request.kill.signal: is not an integer",
        ),
        (
            b'{"request":{"install":{"repository":"r","size":18446744073709551616}}}',
            "request.install.size: is not an integer",
        ),
        (
            b'{"request":{"uninstall":{"container":"a:1.0.0","wipe":null}}}',
            "request.uninstall.wipe: is neither true nor false",
        ),
        (
            START % b'{"A":"\\ud800"}',
            "request.start.environment: contains half of a surrogate pair",
        ),
        (START % b'{"A":"\\u0000"}', "request.start.environment: contains a NUL"),
        (START % b"null", "request.start.environment: is not an object"),
        (
            b'{"request":{"token_create":{"target":"a","shared":"aGVsbG8"}}}',
            "request.token_create.shared: is not base64",
        ),
        (
            b'{"request":{"token_create":{"target":"a","shared":"aGVs bG8="}}}',
            "request.token_create.shared: is not base64",
        ),
        (
            b'{"request":{"token_create":{"target":"a","shared":"aGVsbG9="}}}',
            "request.token_create.shared: is not base64 in its canonical form",
        ),
        (
            b'{"request":{"token_create":{"target":"","shared":""}}}',
            "request.token_create.target: ",
        ),
        (
            b'{"request":{"token_create":{"target":"..","shared":""}}}',
            "request.token_create.target: ",
        ),
        (
            b'{"request":{"token_verify":{"token":"%s==","user":"a:1","shared":""}}}' % (b"A" * 54),
            "request.token_verify.user: ",
        ),
        (
            b'{"request":{"token_create":{"target":"a","shared":"-_8="}}}',
            "request.token_create.shared: is not base64",
        ),
        (b'{"notification":{"exit":["a:1.0.0"]}}', "notification.exit: is not an array of 2"),
        (b'{"connect_nack":"nope"}', "connect_nack: 'nope' is unknown"),
    ],
)
def test_refusals_name_place_and_reason(line: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        api.decode(line)
    assert str(caught.value).startswith(reason) or reason == "NaN" in str(caught.value)


def test_a_long_text_does_not_fill_the_log() -> None:
    for line in (b'{"request":"%s"}', b'{"request":{"inspect":{"container":"%s"}}}'):
        with pytest.raises(ProtocolError) as caught:
            api.decode(line % (b"x" * 100_000))
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"request":{"list":null}}', request.List()),
        (b'{"request":"list","x":{"a":1,"a":2}}', request.List()),
        (b'{"request":"list","response":5}', request.List()),
        (b'{"connect":5,"request":"list"}', request.List()),
        (b'{"request":"list","connect_ack":null}', api.ConnectAck()),
        (b'\t{"request":\r"list"}\r\n', request.List()),
        (b'{"request":{"inspect":{"x":[1],"container":"a:1.0.0"}}}', request.Inspect(C)),
        (b'{"request":{"k\\u0069ll":{"signal":9,"container":"a:1.0.0"}}}', request.Kill(C, 9)),
        (START % b'{"A":"b","A":"c"}', request.Start(C, None, (), {"A": "c"})),
        (START % b'{"A":"\\ud83d\\ude00"}', request.Start(C, None, (), {"A": "\U0001f600"})),
        (
            b'{"response":{"token_verification":{"Future":null}}}',
            response.TokenVerify(response.TokenResult.FUTURE),
        ),
        (
            b'{"connect_nack":{"invalid_protocol_version":{"version":"0.9.2"}}}',
            api.ConnectNack(api.InvalidProtocolVersion(Version(0, 9, 2))),
        ),
        (b'{"connect_nack":"permission_denied"}', api.ConnectNack(api.PermissionDenied())),
    ],
)
def test_tolerated_forms(line: bytes, message: api.Message) -> None:
    assert api.decode(line) == message


def test_the_cache_gives_the_same_result() -> None:
    line = START % b'{"A":"b"}'
    first, second = api.decode(line), api.decode(line)
    assert first is second
    assert first == _decode(line)
    assert isinstance(first, request.Start)
    with pytest.raises(TypeError):
        first.environment["A"] = "changed"  # type: ignore[index]


def test_each_kind_of_connection_has_its_own_cache() -> None:
    line = b'{"request":{"restart":{"container":"a:1.0.0"}}}'
    assert api.decode_extended(line) is api.decode_extended(line)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="request: 'restart' is unknown"):
            api.decode(line)


def test_connect_without_extended_has_the_form_of_0_9_2() -> None:
    plain = api.Connect(api.API_VERSION, subscribe_notifications=True)
    expected = b'{"connect":{"version":"0.9.2","subscribe_notifications":true}}\n'
    assert api.encode(plain) == expected
    assert api.encode(api.ConnectAck()) == b'{"connect_ack":null}\n'


def test_text_that_is_not_unicode_is_escaped() -> None:
    foreign = b"/data/\xff".decode(errors="surrogateescape")
    line = api.encode(response.Kill(response.Failed(C, error.Unexpected(foreign))))
    answer = api.decode(line)
    assert isinstance(answer, response.Kill)
    assert isinstance(answer.result, response.Failed)
    assert answer.result.error == error.Unexpected("/data/\\udcff")
    # In a request the escaped text would be another path.
    with pytest.raises(InvalidValueError, match="not valid UTF-8"):
        api.encode(request.Start(C, foreign, (), {}))


def test_start_with_a_command_needs_another_permission() -> None:
    for init, arguments, environment in (
        ("/bin/sh", (), {}),
        ("", (), {}),
        (None, ("a",), {}),
        (None, (), {"A": "b"}),
    ):
        command = request.Start(C, init, arguments, environment)
        assert request.permissions(command) == {Permission.START_COMMAND}
    assert request.permissions(request.Start(C, None, (), {})) == {Permission.START}


def test_permissions_are_named_as_the_requests() -> None:
    needed = {
        "token_verify": {"token_verification"},
        "status": {"inspect"},
        "stop": {"kill"},
        "restart": {"kill", "start"},
        "keys": {"update"},
    }
    for kind in get_args(api.Request):
        if kind is not request.Start:

            @settings(max_examples=5)
            @given(values(kind))
            def check(message: Any) -> None:
                line = json.loads(api.encode(message))["request"]
                tag = line if isinstance(line, str) else next(iter(line))
                permissions = {permission.value for permission in request.permissions(message)}
                assert permissions == needed.get(tag, {tag})

            check()


def test_bytes_are_base64() -> None:
    line = json.loads(api.encode(response.TokenCreate(bytes(40))))
    assert line == {"response": {"token": base64.b64encode(bytes(40)).decode()}}
