"""The entry points of the commands: they handle SIGINT before anything else is imported.

Python turns SIGINT into an exception at any instruction. During an import, which is most of a short
command's time, that prints a traceback of the import system; and one that is raised in a callback
of the interpreter is printed and lost (`sys.unraisablehook`), so that the command goes on. Nothing
needs to be cleaned up before the command itself begins, so until then SIGINT ends the process.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

_INTERRUPTED = 130
"""Exit code: 128 + SIGINT, as a shell reports it."""


def northstar() -> NoReturn:
    """Run `northstar`."""
    try:
        from northstar.cli.northstar import main

        main()
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)


def nstar() -> NoReturn:
    """Run `nstar`."""
    try:
        from northstar.cli.nstar import main

        main()
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)


def sextant() -> NoReturn:
    """Run `sextant`."""
    try:
        from northstar.cli.sextant import main

        main()
        sys.exit()
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)


def _exit_on_interrupt() -> None:
    """Let SIGINT end the process, unless it is ignored. `common.run_function` undoes it."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def _exit(*_: object) -> NoReturn:
    os._exit(_INTERRUPTED)


# At import: an interrupt at the first instruction of a function is raised before its `try`.
_exit_on_interrupt()
