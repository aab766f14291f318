"""Parses JSON and TOML to nodes, and guesses the language of a text."""

from __future__ import annotations

import re
from typing import Any, Final

from northstar.model.text import quote
from northstar.schema.context import Context
from northstar.schema.node import (
    NESTING_MAX,
    NODES_MAX,
    Literal,
    Mapping,
    Node,
    Scalar,
    Sequence,
)

# The patterns are compiled on first use: valid manifests in YAML do not need them.
#
# `[]` and `[a, b]` are lists of YAML and JSON. `[a]` alone in its line is a table.
_TOML_START: Final = (
    r"""(?a:(?:\s|#[^\n]*(?:\n|\Z))*"""
    r"""(?:[\w."'-]+[ \t]*=|\[\[?[ \t]*[\w."'-]+[ \t]*\]\]?[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)))"""
)

# tomllib takes time proportional to the square of the number of parts of a dotted key. So a key
# with more than NESTING_MAX parts is refused before: at the start of a line, of a table header, or
# of a member of an inline table.
_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_LONG_KEY: Final = rf"(?m:(?:^|[\[{{,])[ \t]*{_KEY}(?:[ \t]*\.[ \t]*{_KEY}){{{NESTING_MAX}}})"
_TOML_PLACE: Final = r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z"


_SYNTAX: Final = "correct the syntax"
"""The next step for a text that no parser accepts."""


def looks_like_json(text: str) -> bool:
    """Return whether a text looks like JSON. This selects the error to show."""
    return text.lstrip(" \t\r\n").startswith("{")


def looks_like_toml(text: str) -> bool:
    """Return whether a text looks like TOML: it starts with `key =` or `[table]`."""
    return re.match(_TOML_START, text) is not None


class _NoNumberError(ValueError):
    """`NaN` or an infinity, which the json module would read as a number."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, with its duplicate keys."""


def parse_json(text: str, context: Context[Any]) -> Node:
    """Return the document.

    Raises:
        NorthstarError: the text is not JSON, or exceeds a bound.
    """
    import json

    def refuse(name: str) -> None:
        raise _NoNumberError(f"{name} is not a number")

    try:
        value = json.loads(text, object_pairs_hook=_Pairs, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = (error.lineno, error.colno)
        raise context.error(f"not JSON: {error.msg}", place=place, hint=_SYNTAX) from None
    except RecursionError:
        raise context.error(context.words.too_deep) from None
    except ValueError as error:
        raise context.error(f"not JSON: {_number_rule(error)}", hint=_SYNTAX) from None
    return node_of(value, context)


def parse_toml(text: str, context: Context[Any]) -> Node:
    """Return the document.

    Raises:
        NorthstarError: the text is not TOML, or exceeds a bound.
    """
    import tomllib

    if re.search(_LONG_KEY, text):
        raise context.error(context.words.too_deep)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, place = str(error), None
        if found := re.search(_TOML_PLACE, message):
            message = message[: found.start()]
            place = (int(found[1]), int(found[2])) if found[1] else None
        raise context.error(f"not TOML: {message}", place=place, hint=_SYNTAX) from None
    except RecursionError:
        raise context.error(context.words.too_deep) from None
    except ValueError as error:
        raise context.error(f"not TOML: {_number_rule(error)}", hint=_SYNTAX) from None
    return node_of(value, context)


def _number_rule(error: ValueError) -> str:
    # Python's message advises to change a setting of the interpreter.
    return str(error) if isinstance(error, _NoNumberError) else "a number has too many digits"


def node_of(value: object, context: Context[Any]) -> Node:
    """Return the node of decoded JSON or TOML.

    Raises:
        NorthstarError: it exceeds a bound, or contains a text that is not Unicode.
    """
    return _Builder(context).node(value, 0)


class _Builder:
    def __init__(self, context: Context[Any]) -> None:
        self._context = context
        self._nodes = 0

    def node(self, value: object, level: int) -> Node:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise self._context.error(f"more than {NODES_MAX} values")
        if isinstance(value, str):
            return self._text(value)
        if not isinstance(value, list | tuple | dict):
            return Literal(value)
        if level >= NESTING_MAX:
            raise self._context.error(self._context.words.too_deep)
        if isinstance(value, dict | _Pairs):
            pairs = value.items() if isinstance(value, dict) else value
            return Mapping(
                [(self.node(key, level + 1), self.node(item, level + 1)) for key, item in pairs]
            )
        return Sequence([self.node(item, level + 1) for item in value])

    def _text(self, value: str) -> Scalar:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                # An escape in JSON can be one half of a surrogate pair, which is not a character.
                raise self._context.error(f"{quote(value)} has half of a surrogate pair") from None
        return Scalar(value, plain=False)
