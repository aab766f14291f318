"""The entry point of `nstar`.

Most of the time that `nstar list` takes is Python's: of some 90 ms the request is one. Two habits
of the interpreter are no use to a program that is over in a moment, and cost a fifth of that:
looking for garbage among what is imported, and taking everything apart at the end.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command in this process's arguments, and end the process."""
    gc.disable()
    from northstar.cli.common import run
    from northstar.cli.nstar_commands import nstar

    # `notifications` may run for a year.
    gc.enable()
    try:
        run(nstar)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    # What was printed is flushed by `run`, or could not be; files and sockets are closed.
    sys.stderr.flush()
    os._exit(code)
