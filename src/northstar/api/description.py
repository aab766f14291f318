"""Descriptions of all parts of the protocol: the docstrings of the messages, as data.

Only the docstrings describe a message and its fields. Reference pages are generated from them. The
runtime and the clients never load this module.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, get_args, get_type_hints

from northstar.api.error import Error
from northstar.api.message import Message
from northstar.api.shape import Body, Exit, Signal, Variant
from northstar.model import ExitStatus

_FIELD: Final = re.compile(r"    (\w+): (.*(?:\n {5,}.*)*)")


class Description(NamedTuple):
    """Description of a part of the protocol.

    Attributes:
        text: sentences about the part.
        fields: a text for each field, by its name on the wire; for an enumeration, for each value.
    """

    text: str
    fields: dict[str, str]


def parts() -> list[type]:
    """Return the classes of all messages and errors, and of their members, each once."""
    found: dict[type, None] = {}
    for kind in (*get_args(Message), *get_args(Error)):
        _collect(kind, found)
    return [*found]


def describe(kind: type) -> Description:
    """Return the description of one of `parts`, with the fields that its docstring names."""
    text, _, attributes = (inspect.getdoc(kind) or "").partition("\n\nAttributes:\n")
    described = {name: " ".join(text.split()) for name, text in _FIELD.findall(attributes)}
    names = wire_names(kind)
    return Description(text, {names.get(name, name): text for name, text in described.items()})


def wire_names(kind: type) -> dict[str, str]:
    """Return the names on the wire of a part's fields; of an enumeration's members its values."""
    if issubclass(kind, enum.Enum):
        return {member.name: str(member.value) for member in kind}
    assert issubclass(kind, Body | Variant)
    return dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))


def _collect(kind: Any, found: dict[type, None]) -> None:
    for part in _kinds(kind):
        if part not in found:
            found[part] = None
            for hint in get_type_hints(part).values() if issubclass(part, Body | Variant) else ():
                _collect(hint, found)


def _kinds(kind: Any) -> Iterator[type]:
    if kind == ExitStatus:
        yield from (Exit, Signal)
    elif isinstance(kind, type) and issubclass(kind, Body | Variant | enum.Enum):
        yield kind
    else:
        for argument in get_args(kind):
            yield from _kinds(argument)
