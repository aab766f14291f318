"""The shapes that a message's parts have on the wire, declared by the base class of a part.

Variants are externally tagged: a variant without fields is the string of its tag, any other is
an object whose one key is the tag. What stands behind the tag depends on the base class. The
codec reads the rest from the annotations, so a message is described in one place only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec


class Range(NamedTuple):
    """Smallest and largest value of an integer."""

    low: int
    high: int


class NoNul(NamedTuple):
    """A text without NUL: it goes to execve."""


class Length(NamedTuple):
    """Exact number of bytes."""

    bytes: int


I32 = Annotated[int, Range(-(2**31), 2**31 - 1)]
U32 = Annotated[int, Range(0, 2**32 - 1)]
U64 = Annotated[int, Range(0, 2**64 - 1)]
Argument = Annotated[str, NoNul()]
TokenBytes = Annotated[bytes, Length(40)]
Environment = Mapping[Argument, Argument]
JsonObject = dict[str, Any]
"""An object whose members are not fixed by the protocol, as plain dicts and lists."""


class Body(msgspec.Struct, frozen=True):
    """An object with these members; not a variant. A member that may be None may be absent."""


class Variant(msgspec.Struct, frozen=True):
    """One of several: `TAG` if it is not empty, else the class's name in snake case, names it."""

    TAG: ClassVar[str] = ""


class Record(Variant, frozen=True):
    """`{tag: {member: value, ..}}`, or `tag` if there are no members."""


class Wrapper(Variant, frozen=True):
    """`{tag: value}`: the only field is the value itself."""


class Row(Variant, frozen=True):
    """`{tag: [value, ..]}`: the fields in their order."""


class Exit(Record, frozen=True):
    """The wire's form of the model's Exited.

    Attributes:
        code: the exit code, 0 to 255.
    """

    code: I32


class Signal(Record, frozen=True):
    """The wire's form of the model's Signalled.

    Attributes:
        signal: number of the signal that ended the process.
    """

    TAG: ClassVar = "signalled"
    signal: I32


@functools.cache
def tag_of(kind: type[Variant]) -> str:
    """Return the tag of a variant."""
    return kind.TAG or re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
