"""The C library, opened once: every prototype is declared here and nowhere else.

A foreign function without a prototype guesses its argument types, and one without a check loses
its errno. So a call is declared by `function` below, which attaches both: what comes back negative
is raised as `OSError` with the errno and the paths among its arguments.

ctypes releases the interpreter's lock around each call, so a mount that takes long blocks only
the thread that asked for it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


def path_bytes(path: str | bytes | os.PathLike[str]) -> bytes:
    """Return a path as the kernel takes it.

    Raises:
        ValueError: it holds a NUL. C would silently take what is before it: another path.
    """
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"a path or string for the kernel holds a NUL: {encoded!r}")
    return encoded


def _check(paths: tuple[int, ...]) -> Any:
    """Return an errcheck that raises OSError with the arguments at `paths` as its file names."""

    def check(result: Any, _function: Any, arguments: tuple[Any, ...]) -> int:
        value = int(result)
        if value >= 0:
            return value
        number = ctypes.get_errno()
        names = [os.fsdecode(arguments[at]) for at in paths if arguments[at]]
        if len(names) > 1:
            raise OSError(number, os.strerror(number), names[0], None, names[1])
        raise OSError(number, os.strerror(number), *names)

    return check


def function(name: str, *argtypes: Any, paths: tuple[int, ...] = ()) -> Callable[..., int]:
    """Declare a function of the C library that returns an int, negative on failure.

    Args:
        name: the symbol.
        argtypes: the C types of its arguments.
        paths: which arguments (counted from 0) an OSError shall name.
    """
    # By index and not by attribute: that gives a function object of our own, so nobody else's
    # prototype for the same symbol can change ours.
    pointer: Any = _libc[name]
    pointer.restype = ctypes.c_int
    pointer.argtypes = argtypes
    pointer.errcheck = _check(paths)
    declared: Callable[..., int] = pointer
    return declared
