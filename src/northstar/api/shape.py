"""The forms of a message's parts on the wire, declared by the base class of each part.

Variants are externally tagged: a variant without fields is the string of its tag, any other is an
object whose only key is the tag. The base class determines the value of that key, the annotations
determine its members. So each message is described in one place only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, NamedTuple

import msgspec


class Range(NamedTuple):
    """Smallest and largest value of an integer."""

    low: int
    high: int


class NoNul(NamedTuple):
    """A text without NUL, for execve(2)."""


class Length(NamedTuple):
    """Exact number of bytes."""

    bytes: int


class MaxLength(NamedTuple):
    """Largest number of bytes."""

    bytes: int


I32 = Annotated[int, Range(-(2**31), 2**31 - 1)]
U32 = Annotated[int, Range(0, 2**32 - 1)]
U64 = Annotated[int, Range(0, 2**64 - 1)]
Argument = Annotated[str, NoNul()]
TOKEN_SIZE: Final = 40
"""Size of a token, in bytes."""
TokenBytes = Annotated[bytes, Length(TOKEN_SIZE)]
Environment = Mapping[Argument, Argument]
JsonObject = dict[str, Any]
"""An object whose members are not fixed by the protocol, as plain dicts and lists."""


class Body(msgspec.Struct, frozen=True):
    """An object with these members; not a variant. A member that may be None may be absent."""


class Variant(msgspec.Struct, frozen=True):
    """One of several alternatives. Its tag is `TAG`, or by default the class name in snake case."""

    TAG: ClassVar[str] = ""


class Record(Variant, frozen=True):
    """`{tag: {member: value, ..}}`, or `tag` if there are no members."""


class Wrapper(Variant, frozen=True):
    """`{tag: value}`: the only field is the value itself."""


class Row(Variant, frozen=True):
    """`{tag: [value, ..]}`: the fields in order."""


class Exit(Record, frozen=True):
    """The process exited: the form of `model.Exited` on the wire.

    Attributes:
        code: the exit code, 0 to 255.
    """

    code: I32


class Signal(Record, frozen=True):
    """A signal terminated the process: the form of `model.Signalled` on the wire.

    Attributes:
        signal: number of the signal that terminated the process.
    """

    TAG: ClassVar = "signalled"
    signal: I32


@functools.cache
def tag_of(kind: type[Variant]) -> str:
    """Return the tag of a variant."""
    return kind.TAG or re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
