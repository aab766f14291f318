"""docs/reference/protocol.md and northstar-console(7): each message of the console.

The texts are the docstrings of northstar.api, the examples are those of `examples`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, get_args

from northstar import api
from northstar.api import error, feature, notification, request, response, stream
from northstar.api.description import describe
from northstar.api.log import Log
from northstar.api.message import Connect, ConnectAck, ConnectNack
from northstar.api.shape import Variant, tag_of
from northstar.model import Permission
from reference import errors, markdown, mdoc, permissions, wire
from reference.blocks import (
    SECTION,
    SUBSECTION,
    Block,
    Code,
    Terms,
    Text,
    Title,
    markdown_blocks,
    mdoc_sections,
)
from reference.docstrings import attribute_texts
from reference.examples import example, session

_SOURCE: Final = "src/northstar/api and reference/examples.py"

_INTRODUCTION: Final = f"""
The console of the runtime is a stream socket, TCP or Unix. Its protocol is that of Northstar
{api.API_VERSION}, which any of its clients speaks, and extensions that a client requests.

Each message is one JSON value on a line of its own, encoded as UTF-8 and ended by a line feed. It
is an object with one of the keys `connect`, `connect_ack`, `connect_nack`, `request`, `response`,
`notification`, and on an extended connection `log` or `stream`. Members that a reader does not know
are ignored. A member that occurs twice makes a message invalid; in an environment the last one
counts.

The first message of a client is `connect`. The runtime sends nothing before its answer. Then it
answers the requests of a connection one after the other, in their order, each by exactly one
response. A notification may come at any time, also between a request and its response.

Alternatives are tagged by a key: the value is an object with the tag as its only member, or, if
there is nothing more to say, the tag as a string. A member that may be null may be absent in what a
client sends.

A line that is not a valid message closes the connection, and so does one that is longer than
`max_request_size` of the configuration, a second `connect`, or a message that only the runtime
sends. The reason is in the log of the runtime, and an extended connection gets it as the last
message, `closing`. A client that from outside of containers that does not
send `connect` within ten seconds is disconnected.
"""

_EXTENDED: Final = """
A client that sends `"extended": true` gets the names of the features of the runtime in
`connect_ack`; Northstar 0.9.2 ignores the member and answers null. So a client knows what it may
request. On a connection that is not extended, the requests of these features are unknown, the
messages `log` and `stream` and the notifications `state` and `update` are not sent, and the
manifest of `inspect` has no section `service`.
"""

_LOG: Final = """
The output of a container, between a request `logs` and its response. The member `lost` tells the
two forms apart.
"""

_STREAM: Final = """
Input and output of a program, between a request `exec` and its response. Nothing else may be sent
by the client meanwhile. What arrives after the program has ended is ignored.
"""

_OBJECTS: Final = "The values that members of messages refer to."


def pages() -> dict[str, str]:
    """Return the page and the manual page."""
    page = markdown.page("The protocol of the console", _SOURCE, markdown_blocks(blocks()))
    manual = mdoc.page(
        "northstar-console",
        7,
        "the protocol of the console of a Northstar runtime",
        _SOURCE,
        [
            *mdoc_sections([Title(SECTION, "Description"), *blocks(), *_values()]),
            mdoc.see_also("northstar(1)", "nstar(1)", "northstar.toml(5)", "northstar-manifest(5)"),
        ],
    )
    return {
        "docs/reference/protocol.md": page,
        "docs/man/man7/northstar-console.7": manual,
    }


def _values() -> list[Block]:
    """Return the errors and permissions: pages of their own, and sections of the manual page."""
    allowed = [permissions.row(one)[:2] for one in Permission]
    return [
        Title(SECTION, "Error values"),
        Terms(("error", "meaning"), errors.rows()),
        Title(SECTION, "Permissions"),
        Terms(("permission", "what a client with it may do"), tuple(allowed)),
    ]


def blocks() -> list[Block]:
    """Return the text of both."""
    return [
        Text(_INTRODUCTION.strip()),
        Title(SECTION, "Types"),
        Terms(("type", "meaning"), wire.WORDS),
        Title(SECTION, "Opening a connection"),
        *_messages("message", (Connect, ConnectAck, ConnectNack)),
        Title(SECTION, "Extended connections"),
        Text(_EXTENDED.strip()),
        Terms(("feature", "what it adds"), tuple(features())),
        Title(SECTION, "Requests and responses"),
        *_requests(),
        Title(SECTION, "Notifications"),
        *_messages("notification", notifications()),
        Title(SECTION, "Log lines of containers"),
        Text(_LOG.strip()),
        *_messages("log", get_args(Log)),
        Title(SECTION, "Streams"),
        Text(_STREAM.strip()),
        *_messages("stream", get_args(stream.Stream)),
        Title(SECTION, "Objects"),
        Text(_OBJECTS),
        *_objects(),
    ]


def notifications() -> tuple[type[Variant], ...]:
    """Return the kinds of notifications."""
    others = {Connect, ConnectAck, ConnectNack}
    for union in (api.Request, api.Response, Log, stream.Stream):
        others |= {*get_args(union)}
    return tuple(kind for kind in get_args(api.Message) if kind not in others)


def features() -> Iterator[tuple[str, str]]:
    """Yield the features with their texts, in the order of the runtime."""
    texts = attribute_texts(feature)
    by_value = {getattr(feature, name): text for name, text in texts.items() if name != "FEATURES"}
    for name in feature.FEATURES:
        yield name, by_value[name]


def response_of(kind: type[Variant]) -> type[Variant]:
    """Return the response to a request: the class of the same name."""
    found: type[Variant] = getattr(response, kind.__name__)
    return found


def permission_text(kind: type[Variant]) -> str:
    """Return the permissions that a kind of request needs, with links to their page."""
    names = sorted(
        permission.value
        for line in session()
        if type(line.message) is kind and isinstance(line.message, api.Request)
        for permission in request.permissions(line.message)
    )
    return " and ".join(f"`{name}`" for name in names)


def _requests() -> Iterator[Block]:
    for kind in get_args(api.Request):
        tag = tag_of(kind)
        yield Title(SUBSECTION, f"Request {tag}")
        needs = f"Needs the [permission](permissions.md) {permission_text(kind)}"
        if kind is request.Start:
            needs += ", or `start_command` if it replaces a part of the command"
        only = _only_extended(kind)
        yield Text(f"{describe(kind).text}\n\n{needs}.{only}")
        yield from _members(kind)
        yield Code(example(kind), "json")
        answer = response_of(kind)
        text = describe(answer).text
        yield Text(f"Its response is `{tag_of(answer)}`. {text}")
        yield from _members(answer)
        yield Code(example(answer), "json")
    denied = response.PermissionDenied
    yield Title(SUBSECTION, f"Response {tag_of(denied)}")
    yield Text(f"{describe(denied).text} It is the response to any request.")
    yield from _members(denied)
    yield Code(example(denied), "json")


def _only_extended(kind: type[Variant]) -> str:
    """Return the sentence about the feature of a request."""
    for line in session():
        if type(line.message) is kind and isinstance(line.message, api.Request):
            name = request.feature(line.message)
            return "" if name is None else f" Only with the feature `{name}`."
    return ""


def _messages(key: str, kinds: tuple[type[Variant], ...]) -> Iterator[Block]:
    plain = get_args(notification.PlainNotification)
    for kind in kinds:
        title = f"{key.capitalize()} {tag_of(kind)}"
        if kind in get_args(Log):
            title = "Lost output" if "lost" in kind.__struct_fields__ else "Line"
        yield Title(SUBSECTION, title)
        extended = key == "notification" and kind not in plain
        yield Text(describe(kind).text + (" Only on extended connections." if extended else ""))
        yield from _members(kind)
        yield Code(example(kind), "json")


def _members(kind: type) -> Iterator[Block]:
    if rows := wire.members(kind):
        yield Terms(wire.HEAD, rows)


def objects() -> list[type]:
    """Return the objects of the page, without messages and errors."""
    messages = get_args(api.Message)
    return [
        kind
        for kind in wire.objects(messages)
        if kind not in get_args(error.Error) and kind not in messages
    ]


def _objects() -> Iterator[Block]:
    for kind in objects():
        if not issubclass(kind, Variant) or kind.__struct_fields__:
            yield Title(SUBSECTION, kind.__name__)
            yield Text(describe(kind).text)
            rows: Any = wire.members(kind)
            if rows and not any(row[1] for row in rows):
                yield Terms(("value", "meaning"), tuple((row[0], row[2]) for row in rows))
            else:
                yield from _members(kind)
