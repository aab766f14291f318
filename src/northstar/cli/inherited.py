"""What a command inherits from its parent and cannot work with, put right before anything else.

A parent may leave a program with closed standard descriptors, ignored signals and blocked signals;
all of that survives execve(2).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from typing import Final

USERS: Final = frozenset(
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
"""Signals of a person or a shell. Who ignores one for a command wants it ignored: nohup(1), or a
shell without job control, which ignores SIGINT for what it runs in the background."""

_PYTHONS: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python ignores them itself, so that EPIPE and EFBIG are errors like others."""


def reset_dispositions(kept: Collection[signal.Signals]) -> None:
    """Set ignored signals to their defaults, except for `kept`.

    An ignored SIGCHLD is the worst: children are reaped by the kernel then, no exit status can be
    had, subprocess takes each failure for a success, and a pid may name a stranger (wait(2)).
    """
    for number in signal.valid_signals() - _PYTHONS - set(kept):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)


def unblock_signals() -> None:
    """Unblock all signals; those that are pending come now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_standard_streams() -> None:
    """Open the descriptors 0, 1 and 2 where they are closed, and sys.stdin and so on with them.

    Else the next file that is opened gets such a number, and what is printed is written into it.
    They are opened the wrong way round, as the C library does it for set-user-id programs: reading
    and writing give EBADF, as for a closed descriptor.

    Raises:
        OSError: there is no /dev/null.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115


def keep_own_access() -> None:
    """Take the owner's bits out of the umask.

    With them a program cannot use the directories that it makes itself, unless it is root's.
    """
    os.umask(os.umask(0o077) & ~0o700)
