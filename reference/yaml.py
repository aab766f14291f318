"""Writes builtins as YAML, in the form of a manifest that is written by hand.

`northstar.schema.emit` is for programs: it quotes more than a person does, and its lists have one
line for each item.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from reference.octal import Octal

_SHORT: Final = 3
"""Most members of a map in one line."""


class _Document(dict[str, Any]):
    """A whole document, which is not in one line."""


class _Dumper(yaml.SafeDumper):
    """Writes lists of scalars and short maps of scalars in one line, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - overridden
        """Return that no value is written as an alias of an equal one."""
        return True


def emit(value: dict[str, Any]) -> str:
    """Return a document: text that ends with a line feed."""
    text: str = yaml.dump(_Document(value), Dumper=_Dumper, sort_keys=False, width=90)
    return text


def _sequence(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=_flat(value))


def _mapping(dumper: _Dumper, value: dict[str, Any]) -> yaml.Node:
    members = [*value.values()]
    flow = len(members) <= _SHORT and _flat(members) and type(value) is not _Document
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=flow)


def _octal(dumper: _Dumper, value: Octal) -> yaml.Node:
    # A plain scalar: `0o660` is an integer in YAML 1.2, and a text in YAML 1.1.
    return dumper.represent_scalar("tag:yaml.org,2002:str", repr(value))


def _flat(members: list[Any]) -> bool:
    return not any(isinstance(member, list | dict) for member in members)


_Dumper.add_representer(list, _sequence)
_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(_Document, _mapping)
_Dumper.add_representer(Octal, _octal)
