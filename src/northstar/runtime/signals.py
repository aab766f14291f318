"""The signals that ask the runtime to end, from its start to its last step.

Python's handlers raise, wherever the program happens to be. That may be in a callback of the import
system, of a weak reference or of the event loop, where every exception is reported and dropped: the
signal is lost. So the kernel keeps the signals (pthread_sigmask(3)) until there is an event loop
that takes them as one more event, and again once there is none.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

STOP: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the runtime in order."""


def hold() -> None:
    """Have the kernel keep the stop signals until `taken`.

    For the calling thread and those that it starts. Nothing that takes long, and no child, may be
    started before they are taken.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


@contextlib.contextmanager
def taken(loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> Iterator[None]:
    """Have `loop` call `stop` for each stop signal, also for one that was held.

    A SIGHUP that is ignored stays so: that is what nohup(1) is for. (A shell without job control
    ignores SIGINT for what it runs in the background, but who sends one to us means it.)
    Afterwards they are held for good: the runtime is about to end, and must not be interrupted at
    that.

    Needs the main thread.
    """
    for number in STOP:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    try:
        yield
    finally:
        hold()
