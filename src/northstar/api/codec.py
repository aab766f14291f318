"""Decodes lines to messages, and encodes messages to lines.

msgspec encodes. It cannot decode the protocol, in which variants are tagged by a key, duplicate
members are refused, and containers and versions are strings. So the C scanner of the json module
parses a line, and the functions of `reader` make the message: 2 to 7 us for a request. Clients of a
device repeat the same requests, and requests are immutable, so they are cached: 0.2 us.
"""

from __future__ import annotations

import functools
import json
from typing import Final, get_args

import msgspec

from northstar.api.log import LogLine, LogLost
from northstar.api.message import Connect, ConnectAck, ConnectNack, Message
from northstar.api.notification import Closing, Notification, PlainNotification
from northstar.api.reader import (
    InvalidError,
    Reader,
    content_reader,
    lenient_reader,
    pairs_of,
    reader,
)
from northstar.api.request import PlainRequest, Request
from northstar.api.response import PlainResponse, Response
from northstar.api.shape import Variant, tag_of
from northstar.api.stream import Stream
from northstar.api.writer import Writer, json_encoder, plain, variant_writer
from northstar.model import InvalidValueError, ProtocolError

_SHORT: Final = 160
"""Longest line in the cache, in bytes."""

_SHOWN: Final = 200
"""Most characters of an error about a line: a peer must not fill the log with its text."""


def decode(line: bytes) -> Message:
    """Return the message of a line on a plain connection, with or without its newline.

    The messages that open a connection are understood in both forms.

    Raises:
        ProtocolError: the line is not a message; the error names the member and the reason.
    """
    if len(line) <= _SHORT and line.startswith(b'{"request":'):
        return _decode_cached(line)
    return _decode(line)


def decode_extended(line: bytes) -> Message | None:
    """Return the message of a line on an extended connection.

    None stands for a notification that this version does not know. It may be ignored.

    Raises:
        ProtocolError: the line is not a message.
    """
    if len(line) <= _SHORT and line.startswith(b'{"request":'):
        return _decode_extended_cached(line)
    return _decode_extended(line)


def encode(message: Message) -> bytes:
    """Return the line of a message, with its newline.

    A text that is not valid Unicode (an error with a path in another encoding) is escaped. In a
    request it is refused, since the escaped text would have another meaning.

    Raises:
        InvalidValueError: a text of a request is not valid Unicode.
    """
    value = _message_writer(type(message))(message)
    try:
        return json_encoder.encode(value) + b"\n"
    except UnicodeEncodeError as error:
        if isinstance(message, Request):
            raise InvalidValueError(f"{error.object[:64]!r} is not valid UTF-8") from None
        return json_encoder.encode(_escaped(msgspec.to_builtins(value, enc_hook=plain))) + b"\n"


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


_scanner: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_constant)


def _decode(line: bytes) -> Message:
    message = _parse(line, _envelopes())
    assert message is not None
    return message


def _decode_extended(line: bytes) -> Message | None:
    return _parse(line, _extended_envelopes())


def _parse(line: bytes, envelopes: dict[str, Reader]) -> Message | None:
    try:
        return _read_message(_scanner.decode(line.decode()), envelopes)
    except InvalidError as error:
        reason = str(error)
    except UnicodeDecodeError as error:
        reason = f"invalid UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        reason = f"invalid JSON: {error.msg} at character {error.pos}"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        # NaN, and integers of more than 4300 digits.
        reason = f"invalid JSON: {error}"
    if len(reason) > _SHOWN:
        reason = reason[:_SHOWN] + " ..."
    raise ProtocolError(reason)


_decode_cached: Final = functools.lru_cache(maxsize=256)(_decode)
_decode_extended_cached: Final = functools.lru_cache(maxsize=256)(_decode_extended)


def _read_message(value: object, envelopes: dict[str, Reader]) -> Message | None:
    found: dict[str, object] = {}
    for key, content in pairs_of(value):
        if key in envelopes:
            if key in found:
                raise InvalidError("is duplicated").inside(key)
            found[key] = content
    first: InvalidError | None = None
    for key, read in envelopes.items():
        if key in found:
            try:
                message: Message | None = read(found[key])
            except InvalidError as error:
                first = first or error.inside(key)
            else:
                return message
    raise first or InvalidError(f"not a message: it has none of the keys {', '.join(envelopes)}")


@functools.cache
def _envelopes() -> dict[str, Reader]:
    """Return the reader for each key of a message, in the order in which the keys are tried."""
    return {
        **{tag_of(kind): content_reader(kind) for kind in (Connect, ConnectAck, ConnectNack)},
        "request": reader(PlainRequest),
        "response": reader(PlainResponse),
        "notification": reader(PlainNotification),
    }


@functools.cache
def _extended_envelopes() -> dict[str, Reader]:
    return {
        **_envelopes(),
        "request": reader(Request),
        "response": reader(Response),
        "notification": lenient_reader((*get_args(Notification), Closing)),
        "log": _log_reader(),
        "stream": reader(Stream),
    }


def _log_reader() -> Reader:
    read_line, read_lost = content_reader(LogLine), content_reader(LogLost)

    def read(value: object) -> object:
        lost = any(key == "lost" for key, _ in pairs_of(value))
        return read_lost(value) if lost else read_line(value)

    return read


_UNIONS: Final = {
    "request": Request,
    "response": Response,
    "notification": Notification | Closing,
    "stream": Stream,
}


@functools.cache
def _message_writer(kind: type[Variant]) -> Writer:
    write = variant_writer(kind)
    key = next((key for key, union in _UNIONS.items() if kind in get_args(union)), None)
    return write if key is None else lambda message: {key: write(message)}


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value
