"""Defers the execution of modules that other libraries import and our commands rarely use.

asyncio imports inspect, which imports ast, dis and tokenize, for functions that only its debug mode
calls. Such modules are a fifth of the start-up time of the runtime, and stay in its memory. A
deferred module is in sys.modules, so that `import` finds it; its code is executed when somebody
reads an attribute that it does not have yet. So a wrong choice of modules costs time only.

`importlib.util.LazyLoader` does the same with two flaws: before Python 3.12.3 two threads that
read an attribute at the same time may see an incomplete module, and it executes a package as soon
as one of its submodules is imported.

The commands use this for modules of the standard library, in their own processes. A library must
not decide this for its users; the exception is `northstar.schema.yaml`, which defers `yaml`.

Two deferred modules must not import each other: two threads could wait for each other.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any


def defer(*names: str) -> None:
    """Put modules into sys.modules that are executed when they are needed.

    Args:
        names: full names. Modules that are imported already, and such that do not exist, are
            skipped. Of a package that is not imported yet only such submodules are possible that
            it imports itself, with `from . import`: so it gets the attribute.
    """
    for name in names:
        if name not in sys.modules and (module := _find(name)) is not None:
            sys.modules[name] = module


def execute(module: ModuleType) -> None:
    """Execute a module now, if it is deferred and has not been executed."""
    if isinstance(module, DeferredModule):
        # No module has this attribute.
        getattr(module, "", None)


def _find(name: str) -> DeferredModule | None:
    path = None
    if package := name.rpartition(".")[0]:
        parent = sys.modules.get(package) or _find(package)
        if parent is None:
            return None
        path = parent.__path__
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return None if spec.loader is None else DeferredModule(spec)
    return None


class DeferredModule(ModuleType):
    """A module whose code is executed when an attribute is read that it does not have."""

    def __init__(self, spec: Any) -> None:
        """Make the module, without executing it.

        Args:
            spec: an `importlib.machinery.ModuleSpec`, whose loader does not create modules itself
                (so no extension module).
        """
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__loader__ = spec.loader
        self.__package__ = spec.parent
        self.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        self.__dict__["__deferred__"] = _Execution()

    def __getattr__(self, name: str) -> Any:
        attributes = self.__dict__
        execution = attributes.get("__deferred__")
        # `from module import name` looks for __path__, which the specification has told.
        if execution is not None and name != "__path__":
            # Other threads wait until it is complete. This thread enters a second time if the
            # module reads its own attributes in a circular import.
            with execution.lock:
                if "__deferred__" in attributes and not execution.begun:
                    execution.begun = True
                    try:
                        self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                        del attributes["__deferred__"]
                        # Reading an attribute of a plain module is faster.
                        self.__class__ = ModuleType  # type: ignore[assignment]
                    finally:
                        execution.begun = False
        try:
            return attributes[name]
        except KeyError:
            message = f"module {self.__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self) from None


class _Execution:
    """State of the execution of a module."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.begun = False
