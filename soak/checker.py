"""Decides whether what clients have seen can be: all orders of steps at once.

It keeps every state that the cluster may be in, given all that was asked, answered and announced
so far. A new observation is looked for among the ways in which these can go on, no further than
needed; states that cannot produce it are dropped. If none is left, the runtime has done what it
must not. (The method is the just-in-time linearisation of concurrent histories, with more than one
step for an operation.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from soak.model import (
    BEGIN,
    Answer,
    Cluster,
    Note,
    Operation,
    State,
    ends,
    restarted,
    steps,
    unmounted,
)

MOST: Final = 200_000
"""States looked at for one observation; more are the fault of the search, not of the runtime."""


class Violation(Exception):  # noqa: N818 - the word of the report
    """Something that must not be was seen."""


class Configuration(NamedTuple):
    """One possibility.

    Attributes:
        state: of the cluster.
        pending: operations with their phase, or with the answer that nobody has seen yet.
        notes: what was announced, and not seen yet, in its order.
    """

    state: State
    pending: frozenset[tuple[Operation, str | Answer]]
    notes: tuple[Note, ...]


class Checker:
    """The possible states of one cluster.

    Attributes:
        widest: most possibilities that there were at a time.
        slowest: seconds that the longest search took.
        ending: the runtime shuts down: containers are sent TERM, and then KILL, and unmounted.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.widest = 1
        self.slowest = 0.0
        self.ending = False
        nothing = State(("",) * len(cluster.containers))
        self.possible = {Configuration(nothing, frozenset(), ())}

    def ask(self, operation: Operation) -> None:
        """An operation is sent now."""
        self.possible = {
            c._replace(pending=c.pending | {(operation, BEGIN)}) for c in self.possible
        }

    def answer(self, operation: Operation, answer: Answer) -> None:
        """It was answered.

        Raises:
            Violation: that cannot be.
        """

        def without(one: Configuration) -> Configuration | None:
            entry = (operation, answer)
            if entry not in one.pending:
                return None
            return one._replace(pending=one.pending - {entry})

        self._observe(without, lambda _: False, f"{operation} answered {answer}")

    def announce(self, kind: str, container: str, status: str = "") -> None:
        """A notification was seen.

        Raises:
            Violation: that cannot be.
        """

        def without(one: Configuration) -> Configuration | None:
            if not one.notes:
                return None
            (first, who, statuses), *rest = one.notes
            same = who == container and (not statuses or status in statuses)
            return one._replace(notes=tuple(rest)) if first == kind and same else None

        def hopeless(one: Configuration) -> bool:
            return bool(one.notes)

        self._observe(without, hopeless, f"{kind} {container} {status} announced")

    def settle(self, *, idle: bool) -> None:
        """All answers are in, and everything that nobody waits for is done, or was never received.

        Args:
            idle: everything must be uninstalled as well, and every notification seen.

        Raises:
            Violation: that cannot be.
        """
        settled = {
            Configuration(one.state, frozenset(), one.notes)
            for one in self._closure(self.possible)
            # What has begun comes to its end; what nobody began was never received.
            if all(operation.abandoned and phase == BEGIN for operation, phase in one.pending)
        }
        if idle:
            empty = State(("",) * len(self.cluster.containers))
            settled &= {Configuration(empty, frozenset(), ())}
        if not settled:
            raise Violation(f"it should be idle, and is one of {self.possible}")
        self.possible = settled

    def restart(self) -> None:
        """The runtime has ended, at any point of what was going on, and is started again."""
        self.ending = False
        self.possible = {
            Configuration(restarted(one.state), frozenset(), ())
            for one in self._closure(self.possible)
        }

    def possibly(self, condition: Callable[[State], bool]) -> bool:
        """Tell whether `condition` may hold, as far as is known."""
        return any(condition(one.state) for one in self.possible)

    def _observe(
        self,
        take: Callable[[Configuration], Configuration | None],
        hopeless: Callable[[Configuration], bool],
        what: str,
    ) -> None:
        begun = time.perf_counter()
        found = set()
        seen = set(self.possible)
        todo = list(self.possible)
        while todo:
            one = todo.pop()
            taken = take(one)
            if taken is not None:
                # What this one may do before it is seen, it may as well do afterwards.
                found.add(taken)
            elif not hopeless(one):
                for following in self.following(one):
                    if following not in seen:
                        seen.add(following)
                        todo.append(following)
            if len(seen) > MOST:
                raise AssertionError(f"too many possibilities before {what}: {len(self.possible)}")
        if not found:
            raise Violation(f"{what}, but what is possible is {self._describe()}")
        self.possible = found
        self.slowest = max(self.slowest, time.perf_counter() - begun)
        self.widest = max(self.widest, len(found))

    def _describe(self) -> str:
        shown = [str(one) for one in list(self.possible)[:20]]
        return "\n".join([f"{len(self.possible)} states:", *shown])

    def _closure(self, configurations: Iterable[Configuration]) -> set[Configuration]:
        seen = set(configurations)
        todo = list(seen)
        while todo:
            for following in self.following(todo.pop()):
                if following not in seen:
                    seen.add(following)
                    todo.append(following)
        return seen

    def following(self, one: Configuration) -> Iterator[Configuration]:
        """Yield every possibility that is one step away from this one."""
        for entry in one.pending:
            operation, phase = entry
            if isinstance(phase, tuple):
                continue
            following = steps(self.cluster, one.state, operation, phase, shutdown=self.ending)
            for state, then, note in following:
                notes = (*one.notes, note) if note is not None else one.notes
                rest = one.pending - {entry}
                if not (operation.abandoned and isinstance(then, tuple)):
                    # An answer that nobody waits for tells nothing.
                    rest |= {(operation, then)}
                yield Configuration(state, rest, notes)
        for state, note in ends(self.cluster, one.state, shutdown=self.ending):
            yield Configuration(state, one.pending, (*one.notes, note))
        if self.ending:
            for state in unmounted(one.state):
                yield one._replace(state=state)
