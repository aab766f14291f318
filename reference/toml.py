"""Writes builtins as TOML, in the form of a configuration that is written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def emit(value: Mapping[str, Any]) -> str:
    """Return a document: text that ends with a line feed.

    Maps become tables. Below the second level a map with one key becomes an inline table.
    """
    return "\n".join(_table(value, ()))


def _table(value: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Return the parts of a table and of those below it, between which there is an empty line."""
    own: list[str] = []
    below: list[str] = []
    for key, member in value.items():
        if isinstance(member, Mapping) and (len(path) < 2 or len(member) > 1):
            below += _table(member, (*path, key))
        else:
            own.append(f"{_key(key)} = {inline(member)}\n")
    if own or not below:
        header = [f"[{'.'.join(map(_key, path))}]\n"] if path else []
        below.insert(0, "".join([*header, *own]))
    return below


def inline(value: Any) -> str:
    """Return a value in one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case Mapping():
            members = ", ".join(f"{_key(key)} = {inline(one)}" for key, one in value.items())
            return f"{{ {members} }}" if members else "{}"
        case list() | tuple():
            return f"[{', '.join(map(inline, value))}]"
        case _:
            return repr(value)


def _key(key: str) -> str:
    return key if _BARE.match(key) else _text(key)


def _text(value: str) -> str:
    # The escapes of JSON are a part of those of TOML, except for surrogate pairs.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
