"""Faults in a launch: one chosen system call of the launcher, init or payload fails, or kills it.

A `Watch` answers the system calls of all launches (see `filters.listened`), and records them. It
identifies a call by process, number, and how often the process made it before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from typing import Final, NamedTuple

from tests.system import filters
from tests.system.filters import Call, Listener

ROLES: Final = ("launcher", "init", "payload")
"""In the order of their first calls: each is created by the previous one."""

EXECVE: Final = {"x86_64": 59, "aarch64": 221}[filters.MACHINE]
PRCTL: Final = {"x86_64": 157, "aarch64": 167}[filters.MACHINE]
EXIT_GROUP: Final = {"x86_64": 231, "aarch64": 94}[filters.MACHINE]
KILL: Final = 0
"""Used in place of an errno: the process is killed."""


class Point(NamedTuple):
    """A system call of a launch.

    Attributes:
        role: the process that makes the call.
        number: number of the call.
        operation: operation of prctl(2); 0 for other calls.
        before: how many such calls the process made earlier.
    """

    role: str
    number: int
    operation: int
    before: int


class Watch:
    """Answers system calls in a separate thread, until it is closed."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._ignored: set[int] = set()
        self._known: dict[int, str] = {}
        self._counts: Counter[tuple[int, int, int]] = Counter()
        # It stays for all launches; after its end the next new process is another one.
        self._launcher: int | None = None
        self._target: tuple[Point, int] | None = None
        self._seen: list[Point] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; no process under the filter may run any more."""
        self._closing.set()
        self._thread.join()
        self._listener.close()

    def begin(self, point: Point | None = None, error: int = KILL) -> None:
        """Watch the next launch; at `point` fail the call with `error`, or kill its process."""
        with self._lock:
            launcher = self._launcher
            self._ignored.update(pid for pid in self._known if pid != launcher)
            self._known = {} if launcher is None else {launcher: ROLES[0]}
            self._counts.clear()
            self._seen.clear()
            self._target = None if point is None else (point, error)

    def seen(self) -> list[Point]:
        """Return the calls of the launch so far, up to its execve."""
        with self._lock:
            return list(self._seen)

    def struck(self) -> bool:
        """Return whether the point of `begin` was reached."""
        with self._lock:
            return self._target is None

    def _run(self) -> None:
        while not self._closing.is_set():
            call = self._listener.next(0.1)
            if call is None:
                continue
            with self._lock:
                error = self._error_for(call)
            if error is None:
                self._listener.answer(call)
            elif error == KILL:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(call.pid, signal.SIGKILL)
            else:
                self._listener.answer(call, error)

    def _error_for(self, call: Call) -> int | None:
        if call.pid in self._ignored:
            return None
        if call.pid not in self._known:
            # The runtime reaps it before it spawns another one.
            if self._launcher is None or not os.path.exists(f"/proc/{self._launcher}"):
                self._known.pop(self._launcher or 0, None)
                self._launcher = call.pid
                self._known[call.pid] = ROLES[0]
            else:
                created = set(self._known.values())
                role = next((role for role in ROLES[1:] if role not in created), None)
                if role is None:
                    return None
                self._known[call.pid] = role
        operation = call.first if call.number == PRCTL else 0
        key = (call.pid, call.number, operation)
        point = Point(self._known[call.pid], call.number, operation, self._counts[key])
        self._counts[key] += 1
        self._seen.append(point)
        error = None
        if self._target is not None and self._target[0] == point:
            error = self._target[1]
            self._target = None
        if call.pid == self._launcher and (error == KILL or call.number == EXIT_GROUP):
            self._launcher = None
        if error is not None:
            return error
        if call.number == EXECVE:
            # Later calls are those of the container's program, at the same addresses.
            self._ignored.add(call.pid)
        return None
