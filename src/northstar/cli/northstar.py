"""The entry point of `northstar`."""

from __future__ import annotations

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Run the command in this process's arguments, and end the process."""
    # Nothing of what is imported is garbage, however often the collector looks. It works from when
    # the runtime is loaded.
    gc.disable()
    from northstar.cli.common import run
    from northstar.cli.northstar_command import northstar

    run(northstar)
