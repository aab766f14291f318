"""Deadlines: first look at what is there, then judge.

A process can be stopped (SIGSTOP), suspended, or not scheduled for longer than any timeout. When it
runs again, its deadline has passed, and what it was waiting for may have come long ago. The system
call that waits may not report that: epoll_wait(2) fails with EINTR after SIGCONT, and others do if
there is a handler (signal(7)). Python does not repeat a call whose time is up (PEP 475).

So a deadline is judged by a look that began after it. The time by which it was noticed too late is
added once, at most the timeout itself: in that time the process could do nothing. On a process that
was not stopped this is a millisecond or less.

`Deadline` is for code that blocks; `northstar.model.loop_deadline` is for the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in time for a loop that tries again until it succeeds or must give up.

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
        """Return the seconds until the deadline, 0.0 after it."""
        return max(self._when - self._clock(), 0.0)

    def passed(self) -> bool:
        """Return whether the attempt that just failed was the last one.

        It was if it began after the deadline: that is, if the call before this one, or the
        beginning, was after it.
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
