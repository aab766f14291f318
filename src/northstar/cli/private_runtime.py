"""The runtime of `sextant run`: it ends with its parent, however that ends, and leaves nothing.

Its process removes the directory that its parent has created, since the parent may be killed.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

CONFIGURATION: Final = "northstar.toml"
LOG: Final = "log"
"""Names in the directory."""


def command(directory: str, lifeline: int, *, keep: bool) -> list[str]:
    """Return the command line of the process.

    Args:
        directory: contains the configuration, and all that the runtime stores.
        lifeline: the read end of a pipe, which the process inherits. The runtime shuts down when
            the last descriptor of the other end is closed.
        keep: do not remove the directory.
    """
    code = "from northstar.cli.private_runtime import main; main()"
    # -P: the working directory is not searched for modules.
    words = [sys.executable, "-P", "-c", code, directory, str(lifeline)]
    return [*words, "keep"] if keep else words


def main() -> NoReturn:
    """Run the runtime in this process, and end the process."""
    # As in northstar.py: all imports come first, and create no garbage.
    gc.disable()
    from northstar.cli.common import run_function
    from northstar.runtime import config, logs, signals  # noqa: F401 - for `start`

    run_function(_run, ())


def _run(_program: str, arguments: Sequence[str]) -> int:
    from northstar.npk import staging

    directory, lifeline, *keep = arguments
    try:
        if _watch(int(lifeline)):
            _start(directory)
    finally:
        if not keep:
            staging.remove(directory)
    return 0


def _start(directory: str) -> None:
    from northstar.cli.northstar import start

    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    log = os.open(os.path.join(directory, LOG), flags, 0o600)
    try:
        start(os.path.join(directory, CONFIGURATION), log_descriptor=log)
    finally:
        os.close(log)


def _watch(lifeline: int) -> bool:
    """Have the kernel send SIGTERM when the other end of a pipe is closed.

    Returns:
        Whether it is open now.

    Signal-driven I/O (F_SETSIG in fcntl(2)) needs no thread and no code in the runtime's event
    loop. PR_SET_PDEATHSIG would be sent when the parent's *thread* ends.
    """
    os.set_inheritable(lifeline, False)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGTERM)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | fcntl.FASYNC | os.O_NONBLOCK)
    try:
        # If it was closed before, no signal follows: an empty read is the end of the file.
        return bool(os.read(lifeline, 1))
    except BlockingIOError:
        return True
