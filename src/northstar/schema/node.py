"""A document as read, before its values have types: what YAML, JSON and TOML have in common.

A scalar of YAML keeps its source text, since what it is depends on what is wanted: `THREADS: 4`
is a string in `env`, `uid: 4` a number. JSON and TOML give their scalars a type of their own.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from northstar.model.text import quote

INPUT_MAX: Final = 1024 * 1024
"""Largest document in bytes, also after the expansion of aliases."""

NODES_MAX: Final = 100_000
"""Most scalars, maps and lists, each alias counted as what it stands for."""

NESTING_MAX: Final = 64
"""Deepest nesting of maps and lists."""


class Mark(Protocol):
    """A place in the text; line and column count from 0."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True, gc=False):
    """Text: a scalar of YAML, or a string of JSON or TOML (which is as one in quotes)."""

    text: str
    plain: bool
    tag: str | None = None
    mark: Any = None


class Literal(msgspec.Struct, frozen=True, gc=False):
    """A scalar of JSON or TOML with a type of its own: int, float, bool, None, or a date."""

    value: Any
    mark: Any = None
    tag: None = None


class Sequence(msgspec.Struct, frozen=True):
    """A list."""

    items: list[Node]
    tag: str | None = None
    mark: Any = None


class Mapping(msgspec.Struct, frozen=True):
    """A map as it is written: in order, duplicate keys and all."""

    pairs: list[tuple[Node, Node]]
    tag: str | None = None
    mark: Any = None


Node = Scalar | Literal | Sequence | Mapping

NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))
_NULL_TAG: Final = "tag:yaml.org,2002:null"


def is_empty(node: Node) -> bool:
    """Tell whether nothing stands after the key."""
    return type(node) is Scalar and not node.text and node.plain and node.tag is None


def is_null(node: Node) -> bool:
    """Tell whether nothing, or a null, stands after the key."""
    if type(node) is Scalar:
        return node.text in NULLS and node.plain and node.tag in (None, _NULL_TAG)
    return type(node) is Literal and node.value is None


def describe(node: Node) -> str:
    """Name a node for a message."""
    if type(node) is Scalar:
        return quote(node.text) if node.text or not node.plain else "nothing"
    if type(node) is Mapping:
        return "a map"
    if type(node) is Sequence:
        return "a list"
    if type(node) is Literal and isinstance(node.value, bool | None):
        return {True: "true", False: "false", None: "null"}[node.value]
    return str(node.value) if type(node) is Literal else "?"
