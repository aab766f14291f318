"""Writing to stdout and stderr, which may be stuck: a stopped terminal, a pipe nobody reads."""

from __future__ import annotations

import collections
import os
import select
import threading
from collections.abc import Callable
from typing import Final

from northstar.deadline import Deadline

PIECE: Final = 4096
"""Bytes that a pipe takes at once if poll(2) says that it takes any (PIPE_BUF, pipe(7))."""

LIMIT: Final = 2**20
"""Bytes that may wait for a stuck descriptor; what comes then is dropped, and counted."""


class Writer:
    """Writes to one descriptor without ever waiting for it. For any thread.

    What the descriptor takes at once is written at once, by the caller: the usual case, without a
    thread, and nothing is lost if the process dies. From the first byte that it does not take, a
    thread writes what waits, until all is written. The descriptor itself is not made
    non-blocking: others share it, and expect it as it is.
    """

    def __init__(self, descriptor: int) -> None:
        """Write to `descriptor`, which stays the caller's."""
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._waiting: collections.deque[bytes] = collections.deque()
        self._thread: threading.Thread | None = None
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._dropped = 0
        self.backlog = 0
        """Bytes that wait."""
        self.note: Callable[[int], bytes] = lambda _count: b""
        """Makes what is written where some writes (their number is given) were dropped."""

    def write(self, data: bytes) -> None:
        """Write `data`, now or later, in one piece."""
        with self._changed:
            if self._thread is None and not self._waiting:
                data = self._write_now(data)
            if data:
                self._keep(data)

    def close(self, patience: float) -> None:
        """Wait at most `patience` seconds until all is written."""
        deadline = Deadline(patience)
        with self._changed:
            while self.backlog and not deadline.passed():
                self._changed.wait(deadline.left())

    def _write_now(self, data: bytes) -> bytes:
        """Write what goes without waiting, and return the rest."""
        while data and self._poll.poll(0):
            try:
                data = data[os.write(self._descriptor, data[:PIECE]) :]
            except BlockingIOError:
                break
            except OSError:
                # The reader is gone. There is nobody left whom we could tell.
                return b""
        return data

    def _keep(self, data: bytes) -> None:
        if self.backlog + len(data) > LIMIT:
            self._dropped += 1
            return
        self._waiting.append(data)
        self.backlog += len(data)
        if self._thread is None:
            # A daemon: a process must be able to end while its stderr is stuck.
            self._thread = threading.Thread(target=self._drain, name="output", daemon=True)
            self._thread.start()

    def _drain(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                data = self._waiting[0]
            self._write_all(data)
            with self._changed:
                self._waiting.popleft()
                self.backlog -= len(data)
                if self._dropped and not self._waiting:
                    note = self.note(self._dropped)
                    self._dropped = 0
                    self._waiting.append(note)
                    self.backlog += len(note)
                self._changed.notify_all()

    def _write_all(self, data: bytes) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while data:
            poll.poll()
            try:
                data = data[os.write(self._descriptor, data[:PIECE]) :]
            except BlockingIOError:
                continue
            except OSError:
                return


_shared: Final[dict[int, Writer]] = {}


def shared(descriptor: int) -> Writer:
    """Return the writer of stdout (1) or stderr (2): one only, or lines would tear each other."""
    return _shared.setdefault(descriptor, Writer(descriptor))
