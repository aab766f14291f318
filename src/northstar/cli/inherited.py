"""Corrects the inherited process state that a command cannot work with, before anything else.

A command may inherit closed standard descriptors, ignored signals and blocked signals from its
parent: all of them survive execve(2).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from typing import Final

USER_SIGNALS: Final = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)
"""Signals that users and shells send. If the parent ignored one, that was intended: nohup(1), or a
shell without job control, which ignores SIGINT for background commands."""

_IGNORED_BY_PYTHON: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Signals that Python ignores at its start, so that EPIPE and EFBIG become exceptions."""


def reset_dispositions(kept: Collection[signal.Signals]) -> None:
    """Set ignored signals to their defaults, except for `kept`.

    An ignored SIGCHLD is the worst case: the kernel reaps children, so their exit status is lost,
    subprocess reports each failure as success, and a pid may be that of another process (wait(2)).
    """
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON - set(kept):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)


def unblock_signals() -> None:
    """Unblock all signals; pending ones are delivered now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_standard_streams() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed, and sys.stdin and so on with them.

    Otherwise the next opened file gets such a number, and output is written into it. They are
    opened for the opposite direction, as the C library does for set-user-id programs: reading and
    writing fail with EBADF, as for a closed descriptor.

    Raises:
        OSError: /dev/null cannot be opened.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            # open(2) returns the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115


def keep_own_access() -> None:
    """Remove the owner's bits from the umask.

    With them a program that does not run as root cannot use directories that it creates.
    """
    os.umask(os.umask(0o077) & ~0o700)
