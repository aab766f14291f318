"""The entry point of `northstar`, and the start of the runtime in its process."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def main() -> NoReturn:
    """Run the command with this process's arguments, and end the process."""
    # Imports create no garbage, so collections during them are wasted time. The collector is
    # enabled when the runtime is imported.
    gc.disable()
    # All imports come before signals are handled: an exception that a handler raises during an
    # import may be lost in a callback of the interpreter (PyErr_WriteUnraisable).
    from northstar.cli.common import run, run_function

    # Only SIGHUP may stay ignored, for nohup(1): the other signals must be able to end a runtime.
    ignorable = (signal.SIGHUP,)
    match sys.argv[1:]:
        case ["-c" | "--config", path]:
            # The usual command line. click takes a tenth of the start-up time, and 1 MB.
            from northstar.runtime import config, logs, signals  # noqa: F401 - for `start`

            run_function(lambda _program, _arguments: _run(path), ignorable)
    from northstar.cli.northstar_command import northstar

    run(northstar, ignorable)


def _run(path: str) -> int:
    start(path)
    return 0


def start(
    path: str,
    *,
    mount_namespace: bool = True,
    log_level: str | None = None,
    log_descriptor: int = 2,
) -> None:
    """Run the runtime in this process until it is shut down.

    Args:
        path: the configuration file.
        mount_namespace: enter a new mount namespace first.
        log_level: lowest level that the runtime logs, a key of `logs.LEVELS`; None for the default.
        log_descriptor: where the log is written.

    Raises:
        NorthstarError, OSError: the runtime could not start, or ended because of a failure.
    """
    from northstar.runtime import logs, signals
    from northstar.runtime.config import load

    config = load(path)
    # Before any thread is started: a thread inherits the signal mask of the one that starts it.
    signals.hold()
    logs.setup(log_level, descriptor=log_descriptor)
    logs.capture_streams()
    _load_runtime()(config, mount_namespace=mount_namespace)


def _load_runtime() -> Callable[..., None]:
    """Import the runtime: most of the start-up time, which help and usage errors avoid."""
    _import_asyncio()
    from northstar.runtime.main import run

    # Imported objects stay until the end, so the collector need not examine them.
    gc.freeze()
    gc.enable()
    return run


def _import_asyncio() -> None:
    """Import asyncio without ssl, which asyncio imports if available and the runtime does not use.

    ssl costs 1.2 MB of resident memory (0.95 of 17.9 MB PSS) and a tenth of the import time of
    asyncio (CPython 3.11). asyncio supports a Python without ssl (`configure` without OpenSSL), and
    None in sys.modules is the documented way to make an import fail (the language reference, "The
    module cache"). There is no other way: asyncio's modules import ssl unconditionally.
    """
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio
    except ImportError:
        # An asyncio that requires ssl is imported with it, below. This only costs memory.
        pass
    finally:
        del sys.modules["ssl"]
    import asyncio  # noqa: F401
