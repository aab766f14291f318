"""`custom`: data that the runtime does not interpret, and returns to clients.

Untagged scalars of YAML have the types of the core schema (YAML 1.2.2, 10.3.2), except for numbers
with a leading zero, which are strings (see `schema.scalars.is_string`).
"""

from __future__ import annotations

import math
from typing import Any, Final

from northstar.schema.context import Context, Path
from northstar.schema.node import NULLS, Literal, Node, Scalar, Sequence
from northstar.schema.records import items_of, pairs_of
from northstar.schema.scalars import (
    BOOLEANS,
    CORE,
    DIGITS_MAX,
    I64,
    INTEGER,
    NOT_FINITE,
    U64,
    Kind,
    is_string,
    text_of,
)

_CORE_NAMES: Final = {
    type(None): "null", bool: "bool", int: "int", float: "float", str: "str",
}  # fmt: skip


class Custom(Kind[Any]):
    """Any JSON value: None, bool, int of 64 bits, finite float, str, list, dict."""

    def read(self, node: Node, path: Path, context: Context[Any]) -> Any:
        """Return the data."""
        if type(node) is Scalar:
            return _scalar(node, path, context)
        if type(node) is Literal:
            if isinstance(node.value, float) and not math.isfinite(node.value):
                return None
            if not isinstance(node.value, bool | int | float | None):
                raise context.invalid(node, path, f"{context.describe(node)} has no form in JSON")
            return _number(node.value, node, path, context)
        if type(node) is Sequence:
            return [
                self.read(item, (*path, index), context)
                for index, item in enumerate(items_of(node, path, context))
            ]
        result: dict[str, Any] = {}
        for key_node, value in pairs_of(node, path, context):
            key = text_of(key_node, path, context)
            if key in result:
                raise context.invalid(key_node, (*path, key), "the key is given twice")
            result[key] = self.read(value, (*path, key), context)
        return result

    def schema(self) -> dict[str, Any]:
        """Return the schema that accepts any value."""
        return {}


def _scalar(node: Scalar, path: Path, context: Context[Any]) -> Any:
    if node.tag in ("!", CORE + "str"):
        return node.text
    value = _resolve(node, path, context) if node.plain else node.text
    if node.tag not in (None, CORE + _CORE_NAMES[type(value)]):
        raise context.invalid(
            node,
            path,
            f"{context.describe(node)} cannot have the tag {context.show(node.tag)} here",
        )
    return value


def _resolve(node: Scalar, path: Path, context: Context[Any]) -> Any:
    text = node.text
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if INTEGER.match(text):
        if len(text) > DIGITS_MAX:
            raise context.invalid(node, path, f"{context.show(text)} does not fit into 64 bit")
        return _number(int(text, 0), node, path, context)
    if NOT_FINITE.match(text):
        return None
    if is_string(text):
        return text
    number = float(text)
    return number if math.isfinite(number) else text


def _number(value: Any, node: Node, path: Path, context: Context[Any]) -> Any:
    if type(value) is int and not -I64 - 1 <= value <= U64:
        raise context.invalid(node, path, f"{context.describe(node)} does not fit into 64 bit")
    return value


CUSTOM: Final = Custom()
