"""Handling of the signals that end the runtime, from its start to its last step.

Python's handlers raise an exception at an arbitrary point of the program. In a callback of the
import system, of a weak reference or of the event loop, the exception is reported and dropped: the
signal is lost. So the signals are blocked (pthread_sigmask(3)) until an event loop handles them as
events, and blocked again after it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

STOP: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that begin an orderly shutdown."""


def hold() -> None:
    """Block the stop signals until `handled`: the kernel keeps them pending.

    This applies to the calling thread and to threads that it starts. No long operation and no child
    process must be started before `handled`. Needs the main thread.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    # Else asyncio.run installs a handler, whose replacement formats the running task in an enum's
    # error message, and that executes inspect: 5 ms.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def handled(loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` in `loop` for each stop signal, including pending ones.

    An ignored SIGHUP stays ignored, as nohup(1) requires. (SIGINT is handled even if ignored: a
    shell without job control ignores it for background commands.) Afterwards the signals stay
    blocked: the runtime is about to end, and must not be interrupted.

    Needs the main thread.
    """

    def handler(_number: int, _frame: FrameType | None) -> None:
        # It may be called from signal handlers (the documentation of asyncio, "Event Loop"). Not
        # add_signal_handler: that examines `stop` with inspect, whose import takes 5 ms.
        loop.call_soon_threadsafe(stop)

    for number in STOP:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    try:
        yield
    finally:
        hold()
