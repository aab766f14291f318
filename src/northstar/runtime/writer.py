"""Writes to stdout and stderr without waiting for their reader.

The output may be a stopped terminal, a pipe that is not read, a full or a frozen disk, or closed by
its reader. Other processes (the shell, a service manager, other services) share the file
description. O_NONBLOCK is a flag of the description (open(2)) and would affect them, so it is never
set. A write(2) after a poll(2) that reports POLLOUT can still block: another process may fill the
pipe in between, a terminal may accept fewer bytes, and poll(2) always reports regular files as
writable. So the event loop uses only calls that cannot block:

- a pipe or a terminal is opened again by /proc/self/fd. The new description is private, and has
  O_NONBLOCK;
- on a stream socket (the journal's) it uses MSG_DONTWAIT (send(2)).

A thread writes to other files, and writes data that such a call did not accept.
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
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from northstar.model.deadline import Deadline

WRITE_MAX: Final = 4096
"""Maximum bytes of one write(2): PIPE_BUF, up to which writes to a pipe are atomic (pipe(7))."""

LIMIT: Final = 2**20
"""Maximum bytes that wait; further data is lost, and counted."""

RESUME: Final = LIMIT // 2
"""After a loss, data is accepted again below this backlog: one gap, not one after each line."""

BATCH: Final = 64 * 1024
"""Most bytes that the thread joins to one text, and that wait for `DELAY`."""

DELAY: Final = 0.01
"""Seconds for which `deferred` collects data."""

RETRY: Final = 0.02
"""Seconds until a write is retried that failed with EAGAIN although poll(2) reported POLLOUT."""

WriteNow = Callable[[memoryview], int]
"""Writes as many bytes as possible without waiting, and returns their number. Raises OSError."""


class Loss(NamedTuple):
    """The number of writes that were lost completely or partly, and of lost bytes."""

    writes: int
    bytes: int

    def plus(self, other: Loss) -> Loss:
        """Return the sum."""
        return Loss(self.writes + other.writes, self.bytes + other.bytes)

    def minus(self, other: Loss) -> Loss:
        """Return the difference."""
        return Loss(self.writes - other.writes, self.bytes - other.bytes)


class Writer:
    """Writes to one descriptor without waiting for it. Thread-safe.

    Data is written at once as far as possible without blocking: then it is not lost if the process
    is killed. A thread writes the remaining data, in order. It is started together with the writer,
    since the kernel may refuse a thread later; if it fails to start, each `write` tries again.
    """

    def __init__(self, descriptor: int) -> None:
        """Write to `descriptor`, which the caller owns. `close` ends the thread."""
        self._descriptor = descriptor
        self._changed = threading.Condition()
        # None marks a gap, where data was lost.
        self._waiting: collections.deque[bytes | None] = collections.deque()
        self._running = False
        self._lost = Loss(0, 0)
        self._failing = False
        self._torn = False
        self._undo = contextlib.ExitStack()
        self._write_now = _without_waiting(descriptor, self._undo)
        self._deferring = 0
        self._call_later: Callable[[float, Callable[[], object]], object]
        self._waking = False
        self.backlog = 0
        """Bytes that wait."""
        self.closed = False
        """Whether `close` was called. Later writes still work."""
        self.note: Callable[[Loss], bytes] = lambda _lost: b""
        """Returns the text that is written at a gap. Called in the thread."""
        with self._changed:
            self._start()

    def write(self, data: bytes) -> None:
        """Write `data` now or later, contiguously. Never waits, never fails."""
        if not data:
            return
        with self._changed:
            if self._write_now is not None and not self._waiting:
                data = self._write_part(data)
            if data:
                self._enqueue(data)
                self._start()

    def close(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all data is written; then the thread ends.

        If no thread can be started, the caller's thread writes. Only then a disk can delay it
        longer.
        """
        deadline = Deadline(timeout)
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

    @contextlib.contextmanager
    def deferred(
        self, call_later: Callable[[float, Callable[[], object]], object]
    ) -> Iterator[None]:
        """Collect what is written to a file meanwhile, for some milliseconds at a time.

        To wake the thread for each line costs half of what a small request costs: the thread and
        the event loop then compete for the interpreter. Pipes, terminals and sockets take most data
        at once, and are not affected.

        Args:
            call_later: of the event loop that runs in this thread.
        """
        self._deferring = _thread.get_ident()
        self._call_later = call_later
        try:
            yield
        finally:
            self._deferring = 0
            self._wake()

    def _notify_thread(self) -> None:
        if (
            self._deferring != _thread.get_ident()
            or self._write_now is not None
            or self.backlog > BATCH
        ):
            self._wake()
        elif not self._waking:
            self._waking = True
            self._call_later(DELAY, self._wake)

    def _wake(self) -> None:
        with self._changed:  # reentrant
            self._waking = False
            self._changed.notify_all()

    def _start(self) -> None:
        """Start the thread if there is none.

        Not by `threading.Thread.start`: it waits until the thread runs, and for ever if the thread
        dies before for lack of memory.
        """
        if self._running:
            return
        self._running = True
        # Only the main thread handles signals, and may block them (signals.py). A thread inherits
        # the mask of the thread that starts it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            _thread.start_new_thread(self._drain, ())
        except (RuntimeError, MemoryError):
            # The kernel refuses a thread (EAGAIN). Waiting data is kept; the next write retries.
            self._running = False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _write_part(self, data: bytes) -> bytes:
        """Write as much as possible without waiting, and return the remaining data."""
        assert self._write_now is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._write_now(view[:WRITE_MAX]) :]
        except OSError:
            # Full for now, or failed: the thread finds out which.
            pass
        return bytes(view)

    def _enqueue(self, data: bytes) -> None:
        behind_gap = bool(self._waiting) and self._waiting[-1] is None
        limit = RESUME if behind_gap and self.backlog else LIMIT
        if self.backlog + len(data) <= limit:
            self._waiting.append(data)
            self.backlog += len(data)
            self._notify_thread()
            return
        self._lost = self._lost.plus(Loss(1, len(data)))
        if not behind_gap:
            self._waiting.append(None)

    @property
    def _pending(self) -> bool:
        """Whether there is data to write. After a failure a note alone does not count."""
        return bool(self.backlog if self._failing else self._waiting)

    # In the thread -----------------------------------------------------------------------------

    def _drain(self, deadline: Deadline | None = None) -> None:
        """Write waiting data until `close`; or, called by `close`, until a deadline."""
        try:
            while True:
                with self._changed:
                    while not self._pending:
                        if self.closed:
                            return
                        self._changed.wait()
                    batch, lost = self._batch(), self._lost
                try:
                    text = b"".join(batch) if batch else self._gap_text(lost)
                    written = self._write_all(memoryview(text), deadline)
                except MemoryError:
                    time.sleep(RETRY)
                    continue
                if written is None:
                    return
                with self._changed:
                    for data in batch:
                        self._note_result(min(written, len(data)), len(data))
                        self._after_data(len(data) - min(written, len(data)))
                        if self._failing:
                            break
                        written -= len(data)
                    if not batch:
                        self._note_result(written, len(text))
                        self._after_note(lost)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _batch(self) -> list[bytes]:
        """Return the data to write next, at least one piece; none if there is a gap first."""
        batch: list[bytes] = []
        size = 0
        for data in self._waiting:
            if data is None or (batch and size + len(data) > BATCH):
                break
            batch.append(data)
            size += len(data)
        return batch

    def _note_result(self, written: int, wanted: int) -> None:
        self._failing = written < wanted
        self._torn = self._failing and (self._torn or written > 0)

    def _gap_text(self, lost: Loss) -> bytes:
        note = self.note(lost) if lost.writes else b""
        # The torn line before the gap has no line end.
        return b"\n" + note if note and self._torn else note

    def _after_note(self, reported: Loss) -> None:
        self._waiting.popleft()
        if not self._failing:
            self._lost = self._lost.minus(reported)
            return
        # The next data would be refused as well.
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
        """Write; return the number of bytes before an error, or None after the deadline."""
        write: WriteNow = self._write_blocking
        if deadline is not None and self._write_now is not None:
            write = self._write_now
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
                written += write(data[written : written + WRITE_MAX])
            except BlockingIOError:
                time.sleep(RETRY)
            except OSError:
                break
        return written

    def _write_blocking(self, data: memoryview) -> int:
        return os.write(self._descriptor, data)


def _without_waiting(descriptor: int, undo: contextlib.ExitStack) -> WriteNow | None:
    """Return a function that writes to `descriptor` and cannot block; None if there is none."""
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
            undo.callback(os.close, own)
            return lambda data: os.write(own, data)
        if stat.S_ISSOCK(mode):
            # Imported late: the import is slow, and help and usage errors do not need it.
            import socket

            stream = socket.socket(fileno=os.dup(descriptor))
            undo.enter_context(stream)
            if stream.type is socket.SOCK_STREAM:
                return lambda data: stream.send(data, socket.MSG_DONTWAIT)
    except OSError:
        # A pipe without a reader, no /proc, or a security module refuses: the thread can write.
        pass
    return None


_shared: Final[dict[int, Writer]] = {}
_shared_lock: Final = threading.Lock()


def shared(descriptor: int) -> Writer:
    """Return the only writer of stdout (1) or stderr (2). Two writers would interleave lines."""
    writer = _shared.get(descriptor)
    if writer is None or writer.closed:
        with _shared_lock:
            writer = _shared.get(descriptor)
            if writer is None or writer.closed:
                writer = _shared[descriptor] = Writer(descriptor)
    return writer
