"""Writing to stdout and stderr without ever waiting for their reader.

The reader may be a stopped terminal, a pipe that nobody reads, a full or a frozen disk, or gone.
The file description is shared with other processes (the shell, a service manager, other services),
which expect it as it is: O_NONBLOCK is a flag of the description (open(2)), so it is never set on
it. A write(2) after a poll(2) that reports POLLOUT can still block: another process may fill the
pipe in between, a terminal may take fewer bytes than are written, and poll(2) reports regular files
as writable always. So the event loop uses only calls that cannot block:

- a pipe or a terminal is opened a second time, by /proc/self/fd. This description is our own, and
  has O_NONBLOCK;
- a stream socket (the journal's) has MSG_DONTWAIT (send(2)).

Everything else is written by a thread, as is what such a call did not take.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from northstar.model.deadline import Deadline

PIECE: Final = 4096
"""Most bytes of one write(2): PIPE_BUF, so that pieces of other processes stay whole (pipe(7))."""

LIMIT: Final = 2**20
"""Most bytes that wait; what comes above is lost, and counted."""

RESUME: Final = LIMIT // 2
"""After a loss, bytes that may wait when data is kept again: one gap, not one after each line."""

RETRY: Final = 0.02
"""Seconds before a write is tried again that EAGAIN refused although poll(2) reported POLLOUT."""

WriteNow = Callable[[memoryview], int]
"""Writes what can be written without waiting, and returns the number of bytes. Raises OSError."""


class Loss(NamedTuple):
    """How many writes were lost, as a whole or in part, and how many bytes of them."""

    writes: int
    bytes: int

    def plus(self, other: Loss) -> Loss:
        """Return the sum."""
        return Loss(self.writes + other.writes, self.bytes + other.bytes)

    def minus(self, other: Loss) -> Loss:
        """Return the difference."""
        return Loss(self.writes - other.writes, self.bytes - other.bytes)


class Writer:
    """Writes to one descriptor without ever waiting for it. For any thread.

    What the descriptor takes at once is written at once, where that is possible without blocking:
    then nothing is lost if the process dies. A thread writes the rest, in order. It is started
    together with the writer, since there may be no thread to be had when the reader is stuck; if
    even that fails, each `write` tries again.
    """

    def __init__(self, descriptor: int) -> None:
        """Write to `descriptor`, which stays the caller's. `close` ends the thread."""
        self._descriptor = descriptor
        self._changed = threading.Condition()
        # None stands where something was lost.
        self._waiting: collections.deque[bytes | None] = collections.deque()
        self._running = False
        self._lost = Loss(0, 0)
        self._failing = False
        self._torn = False
        self._undo = contextlib.ExitStack()
        self._write_now = _without_waiting(descriptor, self._undo)
        self.backlog = 0
        """Bytes that wait."""
        self.closed = False
        """Whether `close` was called. What is written later is written all the same."""
        self.note: Callable[[Loss], bytes] = lambda _lost: b""
        """Makes the text that is written where something was lost. Called in the thread."""
        with self._changed:
            self._start()

    def write(self, data: bytes) -> None:
        """Write `data`, now or later, in one piece. Never waits, never fails."""
        if not data:
            return
        with self._changed:
            if self._write_now is not None and not self._waiting:
                data = self._try(data)
            if data:
                self._keep(data)
                self._start()

    def close(self, patience: float) -> None:
        """Wait at most `patience` seconds until all is written; then the thread ends.

        Where no thread can be had the caller writes. Only then it can wait longer, for a disk.
        """
        deadline = Deadline(patience)
        with self._changed:
            self.closed = True
            self._start()
            self._changed.notify_all()
            while self._running and self._pending and not deadline.passed():
                self._changed.wait(deadline.left())
            alone = not self._running
            self._running = True
        if alone:
            self._drain(deadline)
        with self._changed:
            self._write_now = None
            self._undo.close()

    def _start(self) -> None:
        """Start the thread if there is none.

        `threading.Thread.start` waits until the thread runs: for ever, where it dies of a lack of
        memory before.
        """
        if self._running:
            return
        self._running = True
        # Signals are the main thread's, which may hold them (signals.py). A thread takes the mask
        # of the one that starts it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            _thread.start_new_thread(self._drain, ())
        except (RuntimeError, MemoryError):
            # There is no room for a thread (EAGAIN). What waits is kept; the next write tries.
            self._running = False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _try(self, data: bytes) -> bytes:
        """Write what goes without waiting, and return the rest."""
        assert self._write_now is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._write_now(view[:PIECE]) :]
        except OSError:
            # It takes no more now, or none ever again: that is for the thread to find out.
            pass
        return bytes(view)

    def _keep(self, data: bytes) -> None:
        behind_gap = bool(self._waiting) and self._waiting[-1] is None
        limit = RESUME if behind_gap and self.backlog else LIMIT
        if self.backlog + len(data) <= limit:
            self._waiting.append(data)
            self.backlog += len(data)
            self._changed.notify_all()
            return
        self._lost = self._lost.plus(Loss(1, len(data)))
        if not behind_gap:
            self._waiting.append(None)

    @property
    def _pending(self) -> bool:
        """Whether there is something to write. After a failure that is not the note alone."""
        return bool(self.backlog if self._failing else self._waiting)

    # In the thread -----------------------------------------------------------------------------

    def _drain(self, deadline: Deadline | None = None) -> None:
        """Write what waits, until `close`; or, called by that, until a deadline."""
        try:
            while True:
                with self._changed:
                    while not self._pending:
                        if self.closed:
                            return
                        self._changed.wait()
                    data, lost = self._waiting[0], self._lost
                try:
                    text = self._gap_text(lost) if data is None else data
                    written = self._write_all(memoryview(text), deadline)
                except MemoryError:
                    time.sleep(RETRY)
                    continue
                if written is None:
                    return
                with self._changed:
                    self._failing = written < len(text)
                    self._torn = self._failing and (self._torn or written > 0)
                    if data is None:
                        self._after_note(lost)
                    else:
                        self._after_data(len(data) - written)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _gap_text(self, lost: Loss) -> bytes:
        note = self.note(lost) if lost.writes else b""
        # What was cut off has no line end.
        return b"\n" + note if note and self._torn else note

    def _after_note(self, told: Loss) -> None:
        self._waiting.popleft()
        if not self._failing:
            self._lost = self._lost.minus(told)
            return
        # What comes next would be refused as well.
        if self._waiting:
            self._after_data(len(self._waiting[0] or b""))
        else:
            self._waiting.appendleft(None)

    def _after_data(self, unwritten: int) -> None:
        data = self._waiting.popleft()
        if data is not None:
            self.backlog -= len(data)
        if unwritten:
            self._lost = self._lost.plus(Loss(1, unwritten))
        if self._failing and not (self._waiting and self._waiting[0] is None):
            self._waiting.appendleft(None)

    def _write_all(self, data: memoryview, deadline: Deadline | None) -> int | None:
        """Write; return how many bytes were written before an error; None if the time is over."""
        alone = deadline is not None
        write = self._write_now if alone and self._write_now is not None else self._write_waiting
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        written = 0
        while written < len(data):
            left = None if deadline is None else deadline.left() * 1000
            if left is not None and (left <= 0 or not poll.poll(left)):
                return None
            if left is None:
                poll.poll()
            try:
                written += write(data[written : written + PIECE])
            except BlockingIOError:
                time.sleep(RETRY)
            except OSError:
                break
        return written

    def _write_waiting(self, data: memoryview) -> int:
        return os.write(self._descriptor, data)


def _without_waiting(descriptor: int, undo: contextlib.ExitStack) -> WriteNow | None:
    """Return what writes to the file of `descriptor` and cannot block; None if nothing can."""
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
            undo.callback(os.close, own)
            return lambda data: os.write(own, data)
        if stat.S_ISSOCK(mode):
            # Costs time to import, which help and usage errors need not spend.
            import socket

            stream = socket.socket(fileno=os.dup(descriptor))
            undo.enter_context(stream)
            if stream.type is socket.SOCK_STREAM:
                return lambda data: stream.send(data, socket.MSG_DONTWAIT)
    except OSError:
        # A pipe without a reader, no /proc, or a security module that refuses it: the thread can.
        pass
    return None


_shared: Final[dict[int, Writer]] = {}
_making: Final = threading.Lock()


def shared(descriptor: int) -> Writer:
    """Return the writer of stdout (1) or stderr (2): one only, or lines would tear each other."""
    writer = _shared.get(descriptor)
    if writer is None or writer.closed:
        with _making:
            writer = _shared.get(descriptor)
            if writer is None or writer.closed:
                writer = _shared[descriptor] = Writer(descriptor)
    return writer
