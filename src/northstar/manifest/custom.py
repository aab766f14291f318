"""`custom`: data that the runtime hands on and does not interpret.

Untyped scalars of YAML have the types of the core schema (YAML 1.2.2, 10.3.2), but for a number
with a leading zero, which is a string: nobody agrees on what it counts to.
"""

# ruff: noqa: ARG002 - each kind takes what any kind may need

from __future__ import annotations

import math
import re
from typing import Any, Final

from northstar.manifest.kinds import BOOLEANS, CORE, DIGITS_MAX, I64, INTEGER, U64, Kind, text_of
from northstar.manifest.node import (
    NULLS,
    Context,
    Literal,
    Node,
    Scalar,
    Sequence,
    describe,
    invalid,
    join,
    show,
)
from northstar.manifest.records import items_of, pairs_of

_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
_DIGITS: Final = re.compile(r"[-+]?[0-9]+\Z", re.ASCII)
_NOT_FINITE: Final = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")


_CORE_NAMES: Final = {
    type(None): "null", bool: "bool", int: "int", float: "float", str: "str",
}  # fmt: skip


class Custom(Kind[Any]):
    """Anything that JSON can say: None, bool, int of 64 bit, finite float, str, list, dict."""

    __slots__ = ()

    def read(self, node: Node, path: str, context: Context) -> Any:
        """Return the data."""
        if type(node) is Scalar:
            return _scalar(node, path)
        if type(node) is Literal:
            if isinstance(node.value, float) and not math.isfinite(node.value):
                return None
            if not isinstance(node.value, bool | int | float | None):
                raise invalid(node, path, f"{describe(node)} has no form in JSON")
            return _number(node.value, node, path)
        if type(node) is Sequence:
            return [
                self.read(item, join(path, index), context)
                for index, item in enumerate(items_of(node, path))
            ]
        result: dict[str, Any] = {}
        for key_node, value in pairs_of(node, path):
            key = text_of(key_node, path)
            if key in result:
                raise invalid(key_node, join(path, key), "the key is given twice")
            result[key] = self.read(value, join(path, key), context)
        return result

    def dump(self, value: Any, *, tagged: bool) -> Any:
        """Return the data."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of anything."""
        return {}


def _scalar(node: Scalar, path: str) -> Any:
    if node.tag in ("!", CORE + "str"):
        return node.text
    value = _resolve(node, path) if node.plain else node.text
    if node.tag not in (None, CORE + _CORE_NAMES[type(value)]):
        raise invalid(node, path, f"{describe(node)} cannot have the tag {show(node.tag)} here")
    return value


def _resolve(node: Scalar, path: str) -> Any:
    text = node.text
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if INTEGER.match(text):
        if len(text) > DIGITS_MAX:
            raise invalid(node, path, f"{show(text)} does not fit into 64 bit")
        return _number(int(text, 0), node, path)
    if _NOT_FINITE.match(text):
        return None
    if _FLOAT.match(text) and not _DIGITS.match(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def _number(value: Any, node: Node, path: str) -> Any:
    if type(value) is int and not -I64 - 1 <= value <= U64:
        raise invalid(node, path, f"{describe(node)} does not fit into 64 bit")
    return value


CUSTOM: Final = Custom()
