"""Deadlines that allow a last attempt after the deadline.

A process can be stopped (SIGSTOP), suspended, or not scheduled for longer than any timeout. When it
runs again, its deadline has passed, although the awaited event may have happened long ago. The
waiting system call possibly does not report the event: epoll_wait(2) fails with EINTR after
SIGCONT, other calls do if a handler is installed (signal(7)). Python does not repeat a call whose
timeout has passed (PEP 475).

So a wait fails only after an attempt that began after the deadline. The delay with which the
process noticed the deadline is added to it once, at most the timeout itself: the process could not
run in that time. For a process that was not stopped the delay is a millisecond or less.

`Deadline` is for code that blocks; `northstar.model.loop_deadline` is for the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in time until which a loop repeats its attempts.

    while not attempt():
        if deadline.passed():
            raise ...
        pause(min(PAUSE, deadline.left()))
    """

    __slots__ = ("_begun", "_clock", "_late", "_seconds", "_when")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Set a deadline in `seconds` from now."""
        self._seconds = max(seconds, 0.0)
        self._clock = clock
        self._begun = clock()
        self._when = self._begun + self._seconds
        self._late = False

    def left(self) -> float:
        """Return the seconds until the deadline; 0.0 after it."""
        return max(self._when - self._clock(), 0.0)

    def passed(self) -> bool:
        """Return whether the attempt that just failed was the last one.

        It was if it began after the deadline. An attempt begins with the previous call of this
        method; the first one begins when the deadline is set.
        """
        now = self._clock()
        begun, self._begun = self._begun, now
        if now < self._when:
            return False
        if begun >= self._when:
            return True
        if not self._late:
            self._late = True
            self._when = now + min(now - self._when, self._seconds)
        return False
