"""A parsed document, before its values have types: common to YAML, JSON and TOML.

A scalar of YAML keeps its source text, since its type depends on the field: `THREADS: 4` is a
string in `env`, `uid: 4` a number. Scalars of JSON and TOML have types.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from northstar.model.text import quote

INPUT_MAX: Final = 1024 * 1024
"""Largest document in bytes, also after the expansion of aliases."""

NODES_MAX: Final = 100_000
"""Most scalars, maps and lists; an alias counts as the node that it refers to."""

NESTING_MAX: Final = 64
"""Deepest nesting of maps and lists."""


class Mark(Protocol):
    """A place in the text; line and column count from 0."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True, gc=False):
    """Text: a scalar of YAML, or a string of JSON or TOML (equal to a quoted scalar of YAML)."""

    text: str
    plain: bool
    tag: str | None = None
    mark: Any = None


class Literal(msgspec.Struct, frozen=True, gc=False):
    """A scalar of JSON or TOML that is not a string: int, float, bool, None, or a date."""

    value: Any
    mark: Any = None
    tag: None = None


class Sequence(msgspec.Struct, frozen=True):
    """A list."""

    items: list[Node]
    tag: str | None = None
    mark: Any = None


class Mapping(msgspec.Struct, frozen=True):
    """A map as written: in order, with duplicate keys."""

    pairs: list[tuple[Node, Node]]
    tag: str | None = None
    mark: Any = None


Node = Scalar | Literal | Sequence | Mapping

NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))
_NULL_TAG: Final = "tag:yaml.org,2002:null"


def is_empty(node: Node) -> bool:
    """Return whether the node is empty: nothing follows its key in YAML."""
    return type(node) is Scalar and not node.text and node.plain and node.tag is None


def is_null(node: Node) -> bool:
    """Return whether the node is empty or null."""
    if type(node) is Scalar:
        return node.text in NULLS and node.plain and node.tag in (None, _NULL_TAG)
    return type(node) is Literal and node.value is None


def describe(node: Node) -> str:
    """Describe a node for a message."""
    if type(node) is Scalar:
        return quote(node.text) if node.text or not node.plain else "nothing"
    if type(node) is Mapping:
        return "a map"
    if type(node) is Sequence:
        return "a list"
    if type(node) is Literal and isinstance(node.value, bool | None):
        return {True: "true", False: "false", None: "null"}[node.value]
    return str(node.value) if type(node) is Literal else "?"
