"""The C library, opened once: every prototype is declared here and nowhere else.

ctypes guesses the argument types of a function without a prototype, and ignores errno where no
check is set. So `function` below attaches both to each call: a negative result is raised as
`OSError` with the errno and the paths among the arguments.

ctypes releases the interpreter's lock around each call, so a slow mount blocks only the calling
thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


def path_bytes(path: str | bytes | os.PathLike[str]) -> bytes:
    """Return a path as bytes for the kernel.

    Raises:
        ValueError: it contains a NUL. C would silently use the part before it: another path.
    """
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"a path or string for the kernel contains a NUL: {encoded!r}")
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
        paths: the positions (from 0) of the arguments that an OSError names as paths.
    """
    # An index makes a new function object, an attribute returns a shared one: other code could
    # set another prototype on that.
    pointer: Any = _libc[name]
    pointer.restype = ctypes.c_int
    pointer.argtypes = argtypes
    pointer.errcheck = _check(paths)
    declared: Callable[..., int] = pointer
    return declared
