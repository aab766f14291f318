"""Imports of asyncio and msgspec without the modules that they import and our commands do not use.

Most of the start-up time of a command is imports. See `northstar.deferred`, and
docs/decisions/start-up.md for the measurements.
"""

from __future__ import annotations

import sys
from typing import Final

from northstar.deferred import defer

_RARELY_USED: Final = (
    # traceback: for tracebacks, which are printed after bugs only. linecache imports tokenize.
    "linecache",
    "textwrap",
    # asyncio: for callbacks in debug mode. It imports ast and dis.
    "inspect",
    # asyncio: for connections by TLS, and for names with several addresses.
    "asyncio.sslproto",
    "asyncio.staggered",
    # subprocess: for pipes of text.
    "locale",
    # msgspec: for JSON schemas.
    "msgspec.inspect",
    # For signed packages, keys and tokens. It loads libcrypto: 2.7 ms, and 1 MB.
    "hashlib",
    "hmac",
)


def defer_rarely_used() -> None:
    """Defer modules of the standard library; before any import that takes time."""
    defer(*_RARELY_USED)


def defer_container_modules() -> None:
    """Defer modules of the runtime that only containers need."""
    from northstar.runtime.container_modules import DEFERRED

    defer(*DEFERRED)


def import_asyncio() -> None:
    """Import asyncio without ssl, which asyncio imports if available and the runtime does not use.

    ssl costs 1.2 MB of resident memory (0.95 of 17.9 MB PSS) and a tenth of the import time of
    asyncio (CPython 3.11). asyncio supports a Python without ssl (`configure` without OpenSSL).
    """
    _import_without("ssl", "asyncio")


def import_msgspec() -> None:
    """Import msgspec without typing_extensions, which it imports if it happens to be installed.

    Only Python versions older than ours lack what msgspec takes from it.
    """
    _import_without("typing_extensions", "msgspec")


def _import_without(unused: str, name: str) -> None:
    """Import a module that can do without another one, as if that were not installed.

    None in sys.modules is the documented way to make an import fail (the language reference, "The
    module cache"). There is no other way: these modules are imported unconditionally.
    """
    if unused not in sys.modules:
        sys.modules[unused] = None  # type: ignore[assignment]
        try:
            __import__(name)
        except ImportError:
            # It requires the module: it is imported with it, below. This only costs memory.
            pass
        finally:
            del sys.modules[unused]
    __import__(name)
