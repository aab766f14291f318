"""The entry point of `nstar`.

The request of `nstar list` takes 1 ms, Python most of the remaining time. Two
steps of the interpreter are useless for a short-lived program and take a fifth of that time:
garbage collection during imports, and the teardown of all objects at exit.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main() -> NoReturn:
    """Run the command with this process's arguments, and end the process."""
    gc.disable()
    from northstar.cli.imports import defer_rarely_used, import_msgspec

    defer_rarely_used()
    import_msgspec()
    from northstar.cli.common import execute, run_function
    from northstar.cli.inherited import USER_SIGNALS
    from northstar.cli.nstar_plain import recognize

    plain = recognize(os.path.basename(sys.argv[0]), sys.argv[1:])
    if plain is None:
        from northstar.cli.nstar_commands import nstar

    def command(program: str, arguments: Sequence[str]) -> int:
        return plain() if plain is not None else execute(nstar, arguments, program)

    # `notifications` may run for a long time.
    gc.enable()
    try:
        run_function(command, USER_SIGNALS)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    # `run` has flushed stdout and stderr if that is possible; files and sockets are closed.
    sys.stderr.flush()
    os._exit(code)
