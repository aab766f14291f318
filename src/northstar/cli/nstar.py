"""The entry point of `nstar`.

`nstar list` takes about 90 ms: the request takes 1 ms, Python most of the remaining time. Two
steps of the interpreter are useless for a short-lived program and take a fifth of that time:
garbage collection during imports, and the teardown of all objects at exit.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command with this process's arguments, and end the process."""
    gc.disable()
    from northstar.cli.common import run
    from northstar.cli.nstar_commands import nstar

    # `notifications` may run for a long time.
    gc.enable()
    try:
        run(nstar)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    # `run` has flushed stdout and stderr if that is possible; files and sockets are closed.
    sys.stderr.flush()
    os._exit(code)
