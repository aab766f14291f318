"""Limits on the memory that connections use, and the response to reaching them.

Each connection has a guaranteed allowance (`ALLOWANCE`) for input, for a package and for output. It
suffices for the usual requests, and for any package, though slowly. So a connection that stays
within it never waits for another one.

Memory beyond it comes from pools that all connections of one side share. The sides are clients from
outside and containers: neither can use up the memory of the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Final, Protocol

from northstar.model.loop_deadline import Timer

log = logging.getLogger("northstar.runtime.console")

ALLOWANCE: Final = 16 * 1024
"""Bytes of each kind that each connection may use, whatever other connections use."""

CONNECT_SIZE: Final = 4096
"""Longest line, in bytes, before connect is accepted: a connect message has about 70."""

LINES: Final = 4 * 2**20
"""Bytes reserved for lines that are longer than the allowance."""

PACKAGES: Final = 4 * 2**20
"""Bytes of packages that wait to be stored, or are being stored."""

PACKAGE: Final = 2**20
"""Maximum bytes of one of them."""

OUTPUT: Final = 4 * 2**20
"""Bytes of output that peers have not read."""

LINE_PAUSE: Final = 2.0
LINE_TIMEOUT: Final = 10.0
"""Longest time, in seconds, until the next byte and until the last byte of a long line, if other
connections wait for its memory."""

REQUESTS: Final = 8 * 2**20
"""Bytes reserved for requests that are being executed and are longer than `REQUEST`."""

REQUEST: Final = 2048
"""Longest request, in bytes, whose execution is not counted."""

EXECUTION: Final = 16
"""Bytes that the execution of a request takes at most for each byte of its line. A mount request
takes that many: containers, results, and the answer."""


class Reservation:
    """A request for memory: it waits, is granted, and is released.

    Attributes:
        granted: the memory may be used.
        late: the peer has not sent the data in time that the memory is for.
    """

    def __init__(
        self,
        pool: Reservations,
        size: int,
        owner: Hashable,
        on_granted: Callable[[], object],
        on_late: Callable[[], object] | None,
    ) -> None:
        self._pool = pool
        self.size = size
        self.owner = owner
        self.granted = False
        self.late = False
        self._on_granted = on_granted
        self.on_late = on_late
        self._released = False
        self._moved = False
        self._end = 0.0
        self._timer: Timer | None = None

    def grant(self) -> None:
        """Called by `Reservations`, once."""
        self.granted = True
        loop = asyncio.get_running_loop()
        if self.on_late is not None:
            self._end = loop.time() + LINE_TIMEOUT
            self._timer = Timer(LINE_PAUSE, self._expired)
        loop.call_soon(self._notify_granted)

    def progress(self) -> None:
        """Note that the peer has sent something."""
        self._moved = True
        if self.late and asyncio.get_running_loop().time() < self._end:
            self.late = False
            self._timer = Timer(LINE_PAUSE, self._expired)

    def complete(self) -> None:
        """Stop the timeouts: all data was received, and its processing is not timed."""
        self.late = False
        self.on_late = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def release(self) -> None:
        """Release the memory, or stop waiting for it. Must be called once."""
        self.complete()
        self._released = True
        self._pool.remove(self)

    def _notify_granted(self) -> None:
        if not self._released:
            self._on_granted()

    def _expired(self) -> None:
        self._timer = None
        moved, self._moved = self._moved, False
        if moved and asyncio.get_running_loop().time() < self._end:
            self._timer = Timer(LINE_PAUSE, self._expired)
            return
        self.late = True
        self._pool.close_late()


class Reservations:
    """Grants reservations of a limited amount of memory, each completely or not at all.

    So each holder can complete its work, and no two wait for each other (no deadlock). When memory
    is short, the next reservation granted is that of the owner with the fewest; among equal owners
    the oldest. A connection whose peer is late is closed, but only when others wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        # Dicts are ordered sets.
        self._held: dict[Reservation, None] = {}
        self._waiting: dict[Reservation, None] = {}
        self._owners: Counter[Hashable] = Counter()

    def reserve(
        self,
        size: int,
        owner: Hashable,
        on_granted: Callable[[], object],
        on_late: Callable[[], object] | None = None,
    ) -> Reservation:
        """Request memory.

        Args:
            size: in bytes. If it exceeds the limit, it is granted when no other memory is held.
            owner: of the connection; several connections of one owner get no larger share.
            on_granted: called when it is granted, after this method has returned.
            on_late: called when the connection must be closed; it must release the reservation.
                None: the peer has sent all data already.
        """
        reservation = Reservation(self, size, owner, on_granted, on_late)
        self._waiting[reservation] = None
        self._advance()
        if not reservation.granted:
            self.close_late()
        return reservation

    def remove(self, reservation: Reservation) -> None:
        """Remove a reservation from those held or waiting."""
        if reservation in self._held:
            del self._held[reservation]
            self._used -= reservation.size
            self._owners[reservation.owner] -= 1
            if not self._owners[reservation.owner]:
                del self._owners[reservation.owner]
        else:
            self._waiting.pop(reservation, None)
        self._advance()

    def close_late(self) -> None:
        """Close connections whose peers are late, the oldest first, while others wait."""
        while self._waiting:
            late = next((held for held in self._held if held.late), None)
            if late is None or late.on_late is None:
                return
            late.late = False
            late.on_late()

    def _advance(self) -> None:
        while self._waiting:
            first = min(self._waiting, key=lambda waiting: self._owners[waiting.owner])
            if self._used and self._used + first.size > self._limit:
                return
            del self._waiting[first]
            self._held[first] = None
            self._used += first.size
            self._owners[first.owner] += 1
            first.grant()


class Packages:
    """Counts the bytes of packages between socket and storage; each gets an equal share."""

    def __init__(self, limit: int = PACKAGES) -> None:
        self._limit = limit
        self._used = 0
        self._count = 0

    def begin(self) -> None:
        """Count one more package."""
        self._count += 1

    def end(self) -> None:
        """Count one package less: it is complete or cancelled."""
        self._count -= 1

    def add(self, size: int) -> None:
        """Count bytes that were read; a negative size counts stored bytes."""
        self._used += size

    def room(self, held: int) -> int:
        """Return the bytes that may be read now for a package that buffers `held` bytes.

        The allowance is always available, so a package never waits for another one.
        """
        share = min(PACKAGE, self._limit // max(self._count, 1))
        return max(ALLOWANCE - held, min(share - held, self._limit - self._used), 0)


class Unread(Protocol):
    """A connection whose output the peer does not read."""

    def unread(self) -> int:
        """Return the number of unread bytes."""

    def close_unread(self) -> None:
        """Close the connection at once."""


class Output:
    """Limits the output that peers have not read.

    An answer is in memory already when its peer turns out not to read, so nothing can wait. At the
    limit connections are closed, first those whose peers have not read for the longest time. One is
    always kept, so an answer may be longer than the limit.
    """

    def __init__(self, limit: int = OUTPUT) -> None:
        self._limit = limit
        self._held: dict[Unread, tuple[int, float]] = {}
        self._total = 0

    def update(self, connection: Unread) -> None:
        """Count the unread bytes of a connection."""
        self._measure(connection, asyncio.get_running_loop().time())
        if self._total > self._limit:
            self._shrink()

    def remove(self, connection: Unread) -> None:
        """Stop counting a connection whose peer has read enough, or that is closed; idempotent."""
        size, _ = self._held.pop(connection, (0, 0.0))
        self._total -= size

    def _measure(self, connection: Unread, now: float) -> None:
        size = connection.unread()
        before, since = self._held.get(connection, (0, now))
        self._held[connection] = size, since if size >= before else now
        self._total += size - before

    def _shrink(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._held:
            self._measure(connection, now)
        oldest = deque(sorted(self._held, key=lambda connection: self._held[connection][1]))
        while self._total > self._limit and len(oldest) > 1:
            connection = oldest.popleft()
            self.remove(connection)
            connection.close_unread()


class Memory:
    """The limits that the connections of one side share."""

    def __init__(self) -> None:
        self.lines = Reservations(LINES)
        self.requests = Reservations(REQUESTS)
        self.packages = Packages()
        self.output = Output()
