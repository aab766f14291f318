"""The memory that connections may make the runtime keep, and what happens when it is used up.

Each connection has an allowance of its own (`ALLOWANCE`) for input, for a package and for output.
It suffices for the usual requests, and for any package, if slowly. So a connection that keeps to it
never waits for another one.

What is beyond it comes out of amounts that all connections of one side share. There are two
sides, clients from outside and containers: neither can use up what the other one needs.
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
"""Bytes that each connection may have of each kind, whatever the others have."""

CONNECT_SIZE: Final = 4096
"""Longest line, in bytes, before the connection is made: a connect message has about 70."""

LINES: Final = 4 * 2**20
"""Bytes reserved for lines that are longer than the allowance."""

PACKAGES: Final = 4 * 2**20
"""Bytes of packages that wait to be stored, or are being stored."""

PACKAGE: Final = 2**20
"""Bytes of one of them, at most."""

OUTPUT: Final = 4 * 2**20
"""Bytes that peers have not read."""

LINE_PAUSE: Final = 2.0
LINE_TIMEOUT: Final = 10.0
"""Seconds until the next byte of a long line, and until its last one, if others wait for its
memory."""

REQUESTS: Final = 8 * 2**20
"""Bytes reserved for requests that are being executed and are longer than `REQUEST`."""

REQUEST: Final = 2048
"""Bytes of a request whose execution is not counted."""

EXECUTION: Final = 16
"""How many bytes the execution of a request takes for each byte of its line, at most. It is so many
for a mount request: containers, results, and the answer."""


class Reservation:
    """Memory that was asked for: waited for, then held, until it is released.

    Attributes:
        granted: it may be used.
        late: the peer has not sent what the memory is for.
    """

    def __init__(
        self,
        amount: Reservations,
        size: int,
        owner: Hashable,
        on_granted: Callable[[], object],
        on_late: Callable[[], object] | None,
    ) -> None:
        self._amount = amount
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
        loop.call_soon(self._tell)

    def progress(self) -> None:
        """The peer has sent something."""
        self._moved = True
        if self.late and asyncio.get_running_loop().time() < self._end:
            self.late = False
            self._timer = Timer(LINE_PAUSE, self._expired)

    def complete(self) -> None:
        """All is there: however long it is used now, that is not the peer's fault."""
        self.late = False
        self.on_late = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def release(self) -> None:
        """Give it back, or stop to wait for it. To be called once."""
        self.complete()
        self._released = True
        self._amount.remove(self)

    def _tell(self) -> None:
        if not self._released:
            self._on_granted()

    def _expired(self) -> None:
        self._timer = None
        moved, self._moved = self._moved, False
        if moved and asyncio.get_running_loop().time() < self._end:
            self._timer = Timer(LINE_PAUSE, self._expired)
            return
        self.late = True
        self._amount.end_late()


class Reservations:
    """Grants parts of an amount of memory, each as a whole and never a part of a part.

    So each holder can complete what the memory is for, and no two wait for each other. When there
    is not enough, the next one granted is of the owner that has the fewest; of those the first that
    was asked for. A peer that does not use its part is closed, but only when others wait.
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
        """Ask for memory.

        Args:
            size: in bytes. If that is more than there is, it is granted when none is held.
            owner: of the connection; an owner of several connections has no more turns than others.
            on_granted: called when it is granted, not before this returns.
            on_late: called when the peer must be closed; it releases the reservation. None: the
                memory is not for something that the peer still has to send.
        """
        reservation = Reservation(self, size, owner, on_granted, on_late)
        self._waiting[reservation] = None
        self._advance()
        if not reservation.granted:
            self.end_late()
        return reservation

    def remove(self, reservation: Reservation) -> None:
        """Take it back, or out of the queue."""
        if reservation in self._held:
            del self._held[reservation]
            self._used -= reservation.size
            self._owners[reservation.owner] -= 1
            if not self._owners[reservation.owner]:
                del self._owners[reservation.owner]
        else:
            self._waiting.pop(reservation, None)
        self._advance()

    def end_late(self) -> None:
        """Close peers that are late, the oldest first, as long as others wait."""
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
        """Another package comes."""
        self._count += 1

    def end(self) -> None:
        """One of them has come, or will not."""
        self._count -= 1

    def add(self, size: int) -> None:
        """Count bytes that were read; negative ones were stored."""
        self._used += size

    def room(self, held: int) -> int:
        """Return the bytes that may be read now of a package of which `held` are there.

        Within the allowance there is always room, so a package never waits for another one: what
        it has is stored, whatever the others do.
        """
        share = min(PACKAGE, self._limit // max(self._count, 1))
        return max(ALLOWANCE - held, min(share - held, self._limit - self._used), 0)


class Unread(Protocol):
    """A connection whose output the peer does not read."""

    def unread(self) -> int:
        """Return the bytes of it."""

    def give_up(self) -> None:
        """Close the connection at once."""


class Output:
    """Bounds the output that is not read.

    An answer exists already when it turns out that it is not read, so there is nothing that could
    wait. At the bound connections are closed: first those whose peers have not read a byte for the
    longest time. One is always kept, so an answer may be longer than the bound.
    """

    def __init__(self, limit: int = OUTPUT) -> None:
        self._limit = limit
        self._held: dict[Unread, tuple[int, float]] = {}
        self._total = 0

    def update(self, connection: Unread) -> None:
        """Count what a connection has now."""
        self._look(connection, asyncio.get_running_loop().time())
        if self._total > self._limit:
            self._shrink()

    def forget(self, connection: Unread) -> None:
        """Its peer has read enough, or it is closed; idempotent."""
        size, _ = self._held.pop(connection, (0, 0.0))
        self._total -= size

    def _look(self, connection: Unread, now: float) -> None:
        size = connection.unread()
        before, since = self._held.get(connection, (0, now))
        self._held[connection] = size, since if size >= before else now
        self._total += size - before

    def _shrink(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._held:
            self._look(connection, now)
        oldest = deque(sorted(self._held, key=lambda connection: self._held[connection][1]))
        while self._total > self._limit and len(oldest) > 1:
            connection = oldest.popleft()
            self.forget(connection)
            connection.give_up()


class Memory:
    """What the connections of one side share."""

    def __init__(self) -> None:
        self.lines = Reservations(LINES)
        self.requests = Reservations(REQUESTS)
        self.packages = Packages()
        self.output = Output()
