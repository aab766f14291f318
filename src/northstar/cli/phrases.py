"""Sentences about containers, for people. Programs parse other forms, which do not change."""

from __future__ import annotations

import signal

from northstar.model import Exited, ExitStatus
from northstar.model.status import signal_name


def ended(status: ExitStatus) -> str:
    """Return how a container ended: a clause that follows its name."""
    if isinstance(status, Exited):
        return f"exited with code {status.code}"
    if status.signal == signal.SIGSYS:
        # Only a filter sends it, seccomp(2).
        return "was killed by its seccomp filter (SIGSYS); see nstar seccomp --help"
    return f"was killed by {signal_name(status.signal)}"
