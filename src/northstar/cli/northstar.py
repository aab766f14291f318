"""The entry point of `northstar`."""

from __future__ import annotations

import gc
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command in this process's arguments, and end the process."""
    # Nothing of what is imported is garbage, however often the collector looks. It works from when
    # the runtime is loaded.
    gc.disable()
    from northstar.cli.common import run
    from northstar.cli.northstar_command import northstar

    # SIGHUP alone, for nohup(1): whoever sends another one to a runtime means it.
    run(northstar, ignorable=(signal.SIGHUP,))
