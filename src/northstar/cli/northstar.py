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
    from northstar.cli.imports import defer_rarely_used, import_msgspec

    defer_rarely_used()
    import_msgspec()
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
    from northstar.cli.imports import defer_container_modules, import_asyncio

    import_asyncio()
    defer_container_modules()
    from northstar.runtime.main import run

    # Imported objects stay until the end, so the collector need not examine them.
    gc.freeze()
    gc.enable()
    return run
