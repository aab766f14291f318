"""Writes builtins as YAML, in the forms that a manifest needs.

A text that every YAML reader reads as the same string is written plain. Any other text is written
in double quotes, with all characters escaped that YAML 1.1 or 1.2 treats as special.
"""

from __future__ import annotations

import re
from typing import Any, Final

from northstar.model.pattern import Pattern
from northstar.schema.variants import Tagged

_PLAIN: Final = Pattern(
    # No digit, dot, sign or `~` first: not a number or a date. No `:` at the end: not a key.
    r"(?:[A-Za-z/_](?:[A-Za-z0-9/_.,:+-]*[A-Za-z0-9/_.,+-])?|[0-9]+\.[0-9]+\.[0-9]+)\Z",
    re.ASCII,
)
_WORDS: Final = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}

_SIMPLE_KEY_MAX: Final = 1000
"""Longest key, as written, without `?`. YAML allows 1024 characters (1.2.2, 8.2.2)."""


def emit(value: dict[str, Any]) -> str:
    """Return a document: text that ends with a line feed."""
    if not value:
        return "{}\n"
    lines: list[str] = []
    _map(value, "", lines)
    return "\n".join(lines) + "\n"


def _map(value: dict[str, Any], indent: str, lines: list[str]) -> None:
    for name, member in value.items():
        key = _scalar(name)
        if len(key) <= _SIMPLE_KEY_MAX:
            _member(f"{indent}{key}:", member, indent, lines)
        else:
            lines.append(f"{indent}? {key}")
            _member(f"{indent}:", member, indent, lines)


def _member(head: str, value: Any, indent: str, lines: list[str]) -> None:
    if isinstance(value, Tagged):
        head = f"{head} !{value.name}"
        value = value.data
    if isinstance(value, dict) and value:
        lines.append(head)
        _map(value, indent + "  ", lines)
    elif isinstance(value, list) and value:
        lines.append(head)
        for item in value:
            _member(f"{indent}  -", item, indent + "  ", lines)
    else:
        lines.append(f"{head} {_scalar(value)}")


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case dict():
            return "{}"
        case list():
            return "[]"
        case _:
            return repr(value)


def _text(text: str) -> str:
    if _PLAIN.match(text) and text.lower() not in _WORDS:
        return text
    return f'"{"".join(map(_character, text))}"'


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
