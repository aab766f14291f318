"""Readers: convert parsed JSON to the values of a message.

A reader is created once for each type, from the annotations of the message classes. Its input has a
tuple of pairs for a JSON object, which keeps duplicate members, and a list for an array.
"""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import math
import operator
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from northstar.api.shape import (
    Body,
    Exit,
    JsonObject,
    Length,
    MaxLength,
    NoNul,
    Range,
    Record,
    Row,
    Signal,
    Variant,
    tag_of,
)
from northstar.model import Container, Exited, ExitStatus, Name, Signalled, Version

Pairs = tuple[tuple[str, object], ...]
Reader = Callable[[Any], Any]
T = TypeVar("T")


class InvalidError(Exception):
    """A value is refused. `path` is the path to it, innermost member first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def inside(self, member: str) -> InvalidError:
        """Add an enclosing member to the path, and return this error."""
        self.path.append(member)
        return self

    def __str__(self) -> str:
        return f"{'.'.join(reversed(self.path))}: {self.reason}" if self.path else self.reason


@functools.cache
def reader(kind: Any) -> Reader:
    """Return the reader of a type."""
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return simple
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded_reader(arguments[0], arguments[1])
    if origin is tuple:
        return _array_reader(reader(arguments[0]))
    if origin is Mapping:
        return _mapping_reader(reader(arguments[0]), reader(arguments[1]))
    if origin in (Union, types.UnionType):
        if types.NoneType in arguments:
            others = (a for a in arguments if a is not types.NoneType)
            inner = reader(functools.reduce(operator.or_, others))
            return lambda value: None if value is None else inner(value)
        return _variant_reader(arguments)
    if issubclass(kind, enum.Enum):
        return _enum_reader(kind)
    if issubclass(kind, Variant):
        return _variant_reader((kind,))
    return _fields_reader(kind)


def lenient_reader(kinds: tuple[type[Variant], ...]) -> Reader:
    """Return the reader of one of several variants that returns None for an unknown tag."""
    tags = {tag_of(kind) for kind in kinds}
    read = _variant_reader(kinds)

    def read_known(value: object) -> object:
        if type(value) is str:
            known = value in tags
        else:
            pairs = pairs_of(value)
            known = len(pairs) != 1 or pairs[0][0] in tags
        return read(value) if known else None

    return read_known


def _variant_reader(kinds: tuple[type[Variant], ...]) -> Reader:
    units = {tag_of(kind): kind() for kind in kinds if not kind.__struct_fields__}
    # Their readers are created on first use: a command needs only two or three of them.
    others = {tag_of(kind): kind for kind in kinds if kind.__struct_fields__}

    def read(value: object) -> object:
        if type(value) is str:
            tag, content = value, None
        else:
            pairs = pairs_of(value)
            if len(pairs) != 1:
                raise InvalidError(
                    f"an object of {len(pairs)} members is not a variant (exactly one member)"
                )
            tag, content = pairs[0]
        if tag in units:
            if content is not None:
                raise InvalidError("has no members").inside(tag)
            return units[tag]
        if tag not in others:
            raise InvalidError(f"{tag[:40]!r} is unknown")
        try:
            return content_reader(others[tag])(content)
        except InvalidError as error:
            raise error.inside(tag) from None

    return read


@functools.cache
def content_reader(kind: type[Variant]) -> Reader:
    """Return the reader of the value after the tag."""
    if issubclass(kind, Record):
        return _fields_reader(kind)
    hints = get_type_hints(kind, include_extras=True)
    readers = [reader(hints[field]) for field in kind.__struct_fields__]
    if not issubclass(kind, Row):
        [only] = readers
        return lambda value: kind(only(value))

    def read_row(value: object) -> Variant:
        if type(value) is not list or len(value) != len(readers):
            raise InvalidError(f"is not an array of {len(readers)}")
        return kind(*(read(item) for read, item in zip(readers, value, strict=True)))

    return read_row


def _fields_reader(kind: type[Body | Record]) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    # Fields in the order of the constructor, by their names on the wire.
    names = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    readers = {wire: reader(hints[field]) for wire, field in names.items()}
    optional = {wire for wire, field in names.items() if types.NoneType in get_args(hints[field])}

    def read(value: object) -> Body | Record:
        values: dict[str, Any] = {}
        for key, item in pairs_of(value):
            reader = readers.get(key)
            if reader is None:
                continue
            if key in values:
                raise InvalidError("is duplicated").inside(key)
            try:
                values[key] = reader(item)
            except InvalidError as error:
                raise error.inside(key) from None
        if len(values) != len(readers):
            for key in readers:
                if key not in values:
                    if key not in optional:
                        raise InvalidError("is missing").inside(key)
                    values[key] = None
        return kind(*[values[key] for key in readers])

    return read


def _array_reader(read_item: Reader) -> Reader:
    def read(value: object) -> tuple[Any, ...]:
        if type(value) is not list:
            raise InvalidError("is not an array")
        return tuple([read_item(item) for item in value])

    return read


def _mapping_reader(read_key: Reader, read_value: Reader) -> Reader:
    def read(value: object) -> Mapping[Any, Any]:
        # Read-only, because callers share a cached message. The last of duplicate keys counts.
        return types.MappingProxyType(
            {read_key(key): read_value(item) for key, item in pairs_of(value)}
        )

    return read


def _enum_reader(kind: type[enum.Enum]) -> Reader:
    members = {member.value: member for member in kind}

    def read(value: object) -> enum.Enum:
        if type(value) is tuple and len(value) == 1 and value[0][1] is None:
            value = value[0][0]
        if type(value) is not str or value not in members:
            raise InvalidError(f"is none of {', '.join(members)}")
        return members[value]

    return read


def _bounded_reader(kind: type, bound: object) -> Reader:
    match bound:
        case Range(low, high):

            def read_integer(value: object) -> int:
                if type(value) is not int or not low <= value <= high:
                    raise InvalidError(f"is not an integer from {low} to {high}")
                return value

            return read_integer
        case NoNul():

            def read_argument(value: object) -> str:
                if "\0" in (text := _string(value)):
                    raise InvalidError("contains a NUL character")
                return text

            return read_argument
        case Length(length):

            def read_bytes(value: object) -> bytes:
                if len(data := _bytes(value)) != length:
                    raise InvalidError(f"has {len(data)} bytes, not {length}")
                return data

            return read_bytes
        case MaxLength(most):

            def read_some_bytes(value: object) -> bytes:
                if len(data := _bytes(value)) > most:
                    raise InvalidError(f"has {len(data)} bytes, more than {most}")
                return data

            return read_some_bytes
    raise TypeError(f"{kind} has no bound {bound}")


def pairs_of(value: object) -> Pairs:
    """Return the members of an object.

    Raises:
        InvalidError: the value is not an object.
    """
    if type(value) is not tuple:
        raise InvalidError("is not an object")
    return value


def _string(value: object) -> str:
    if type(value) is not str:
        raise InvalidError("is not a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidError("contains half of a surrogate pair") from None
    return value


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise InvalidError("is neither true nor false")
    return value


def _nothing(value: object) -> None:
    if value is not None:
        raise InvalidError("is not null")


def _bytes(value: object) -> bytes:
    text = _string(value)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidError("is not base64") from None
    # Canonical: each value has one text only. The unused bits of the last digit are zero.
    if base64.b64encode(data) != text.encode():
        raise InvalidError("is not base64 in its canonical form")
    return data


def _parsed(parse: Callable[[str], T]) -> Reader:
    def read(value: object) -> T:
        text = _string(value)
        try:
            return parse(text)
        except ValueError as error:
            raise InvalidError(str(error)) from None

    return read


def _exit_status(value: object) -> ExitStatus:
    status = reader(Exit | Signal)(value)
    return Exited(status.code) if isinstance(status, Exit) else Signalled(status.signal)


def _json_object(value: object) -> JsonObject:
    pairs = pairs_of(value)
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InvalidError("has a duplicate member")
    for key, item in pairs:
        _string(key)
        try:
            result[key] = _json(item)
        except InvalidError as error:
            raise error.inside(key) from None
    return result


def _json(value: object) -> object:
    """Return any JSON value that can be encoded again."""
    kind = type(value)
    if kind is str:
        return _string(value)
    if kind is tuple:
        return _json_object(value)
    if type(value) is list:
        return [_json(item) for item in value]
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise InvalidError("is an integer of more than 64 bits")
    if type(value) is float and not math.isfinite(value):
        raise InvalidError("is out of range")
    return value


_SIMPLE: Final[dict[Any, Reader]] = {
    str: _string,
    bool: _bool,
    bytes: _bytes,
    types.NoneType: _nothing,
    Container: _parsed(Container.parse),
    Name: _parsed(Name),
    Version: _parsed(Version.parse),
    ExitStatus: _exit_status,
    JsonObject: _json_object,
}
