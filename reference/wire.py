"""The types of the protocol, in the words of its page."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from northstar.api import Error, Request
from northstar.api.description import describe, wire_names
from northstar.api.shape import (
    Body,
    Exit,
    JsonObject,
    Length,
    MaxLength,
    NoNul,
    Range,
    Row,
    Signal,
    Variant,
    Wrapper,
    tag_of,
)
from northstar.model import Container, ExitStatus, Name, Version
from reference import markdown

_PLAIN: Final[dict[Any, str]] = {
    str: "string",
    bool: "true or false",
    bytes: "base64",
    types.NoneType: "null",
    Container: "container",
    Name: "name",
    Version: "version",
    ExitStatus: "exit status",
    JsonObject: "object",
}
"""Types with a word of their own: the words are explained by WORDS."""

_UNIONS: Final[dict[tuple[Any, ...], str]] = {
    get_args(Error): "[error](errors.md)",
    get_args(Request): "a request",
}

WORDS: Final = (
    ("container", 'A name and a version as one string, `"hello:1.0.0"`.'),
    (
        "name",
        "The name of a container, a string. `extern` is that of clients outside of containers.",
    ),
    ("version", 'A version as of Semantic Versioning, a string such as `"1.0.0"`.'),
    (
        "exit status",
        'How a process ended: `{"exit":{"code":N}}` or, by a signal, `{"signalled":{"signal":N}}`.',
    ),
    (
        "base64",
        "Bytes as a string: the standard alphabet of RFC 4648, with padding, without white space.",
    ),
    ("integer", "A number without a fraction or an exponent: `15.0` is refused."),
)
"""The words for types, with their meaning."""


def type_text(hint: Any) -> str:
    """Return the text for a type; objects are links.

    Raises:
        TypeError: the protocol has no such type.
    """
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1])
    if origin is tuple:
        return f"array of {type_text(arguments[0])}"
    if origin is Mapping:
        return "object of strings"
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if not isinstance(hint, type):
        raise TypeError(f"the protocol has no type {hint}")
    if issubclass(hint, Variant):
        return _variant(hint)
    return markdown.link(hint.__name__)


def _union(kinds: tuple[Any, ...]) -> str:
    for union, text in _UNIONS.items():
        if set(kinds) == set(union):
            return text
    if set(kinds) - {types.NoneType} == set(get_args(ExitStatus)):
        others = ["exit status"]
    else:
        others = [type_text(kind) for kind in kinds if kind is not types.NoneType]
    return " or ".join([*others, *(["null"] if types.NoneType in kinds else [])])


def _variant(kind: type[Variant]) -> str:
    """Return the text for one of several alternatives: its tag, and a link to its members."""
    tag = tag_of(kind)
    if not kind.__struct_fields__:
        return f'`"{tag}"`'
    return f"`{tag}` ({markdown.link(kind.__name__)})"


def _bounded(kind: Any, bound: object) -> str:
    match bound:
        case Range(low, high):
            return f"integer, {_number(low)} to {_number(high)}"
        case NoNul():
            return "string without NUL"
        case Length(count):
            return f"base64 of {count} bytes"
        case MaxLength(count):
            return f"base64 of at most {count} bytes"
    raise TypeError(f"{kind} has no bound {bound}")


def _number(value: int) -> str:
    """Return a bound, large ones as a power of two."""
    if abs(value) < 2**17:
        return str(value)
    if value < 0:
        return f"-2^{(-value).bit_length() - 1}"
    return f"2^{(value + 1).bit_length() - 1} - 1"


HEAD: Final = ("member", "type", "meaning")
"""The titles of the columns of `members`."""


def members(kind: type) -> tuple[tuple[str, str, str], ...]:
    """Return name, type and meaning of each member, or of each value of an enumeration.

    The value of a wrapper has the name `(value)`, those of a row have their positions.
    """
    fields = describe(kind).fields
    if issubclass(kind, enum.Enum):
        return tuple((f'"{value}"', "", text) for value, text in fields.items())
    hints = get_type_hints(kind, include_extras=True)
    rows = []
    for position, (field, wire) in enumerate(wire_names(kind).items()):
        name = wire
        if issubclass(kind, Wrapper):
            name = "(value)"
        elif issubclass(kind, Row):
            name = f"[{position}]"
        rows.append((name, type_text(hints[field]), fields[wire]))
    return tuple(rows)


def objects(kinds: tuple[type, ...], found: dict[type, None] | None = None) -> list[type]:
    """Return the objects and enumerations that members refer to, each once, without errors."""
    seen: dict[type, None] = {} if found is None else found
    for kind in kinds:
        if not issubclass(kind, Body | Variant):
            continue
        for hint in get_type_hints(kind).values():
            for part in _parts(hint):
                if part not in seen:
                    seen[part] = None
                    objects((part,), seen)
    return [*seen]


def _parts(hint: Any) -> list[type]:
    if hint in _PLAIN:
        return []
    if isinstance(hint, type) and issubclass(hint, Body | enum.Enum | Variant):
        return [hint] if hint not in (Exit, Signal) else []
    return [part for argument in get_args(hint) for part in _parts(argument)]
