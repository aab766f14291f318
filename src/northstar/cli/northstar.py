"""The entry point of `northstar`."""

from __future__ import annotations

import gc
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command with this process's arguments, and end the process."""
    # Imports create no garbage, so collections during them are wasted time. The collector is
    # enabled when the runtime is imported.
    gc.disable()
    from northstar.cli.common import run
    from northstar.cli.northstar_command import northstar

    # Only SIGHUP may stay ignored, for nohup(1): the other signals must be able to end a runtime.
    run(northstar, ignorable=(signal.SIGHUP,))
