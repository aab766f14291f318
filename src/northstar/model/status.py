"""How a process ended."""

from __future__ import annotations

import signal
from typing import NamedTuple


class Exited(NamedTuple):
    """The process called exit(3) with `code` (0 to 255)."""

    code: int

    def __str__(self) -> str:
        return f"Exit({self.code})"


class Signalled(NamedTuple):
    """The process was terminated by `signal` (1 to 64)."""

    signal: int

    def __str__(self) -> str:
        return f"Signalled({signal_name(self.signal)})"


ExitStatus = Exited | Signalled


def signal_name(number: int) -> str:
    """Return the name of a signal, `SIGTERM` or `SIGRTMIN+3`; the number if it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        pass
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return str(number)
