"""Imports the parser of libyaml without the rest of PyYAML, which takes ten times as long.

`import yaml._yaml` imports the package `yaml` first: its own reader, resolver and constructor
compile large regular expressions (9 of 12 ms). `_yaml` itself takes only classes from there: of
tokens, events and nodes, whose modules are small, and of exceptions, which it calls to make one.

So the package is deferred: another user of `yaml` gets all of it, with the same classes. While
`_yaml` is imported, functions that import an exception's class when it is raised stand for those
classes. If a future `_yaml` asks for more, the package is executed, and this only takes longer.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

from northstar.deferred import DeferredModule, defer

__all__ = [
    "CParser",
    "MappingEndEvent",
    "MappingStartEvent",
    "MarkedYAMLError",
    "ScalarEvent",
    "SequenceEndEvent",
    "SequenceStartEvent",
    "StreamEndEvent",
    "YAMLError",
]

_LARGE: Final = (
    "reader",
    "scanner",
    "parser",
    "composer",
    "constructor",
    "emitter",
    "serializer",
    "representer",
)
"""Modules from which `_yaml` takes an exception only."""


class _Errors:
    """Stands for a module of `yaml`, as long as its exceptions are only mentioned."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, error: str) -> Any:
        def make(*arguments: object) -> Any:
            return getattr(importlib.import_module(self._name), error)(*arguments)

        return make


def _load() -> None:
    """Import `yaml._yaml`."""
    defer("yaml")
    package = sys.modules.get("yaml")
    if isinstance(package, DeferredModule):
        for name in ("error", "tokens", "events", "nodes"):
            importlib.import_module(f"yaml.{name}")
        stand_ins = {name: _Errors(f"yaml.{name}") for name in _LARGE if name not in vars(package)}
        vars(package).update(stand_ins)
        try:
            importlib.import_module("yaml._yaml")
        finally:
            for name, stand_in in stand_ins.items():
                # Else the package has been executed, and has replaced it.
                if vars(package).get(name) is stand_in:
                    delattr(package, name)


_load()

from yaml._yaml import CParser  # noqa: E402 - the purpose of this module
from yaml.error import MarkedYAMLError, YAMLError  # noqa: E402
from yaml.events import (  # noqa: E402
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
