"""Decides whether the observations of clients are possible, in any order of steps.

The checker keeps every state that the cluster may have after all requests, answers and
notifications so far. For each new observation it searches the following states, no further than
needed, and drops the states that cannot produce it. If none remains, the runtime has violated the
contract. (The method is the just-in-time linearisation of concurrent histories, with several steps
per operation.)
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
"""Limit of states per observation; beyond it the search has failed, not the runtime."""


class Violation(Exception):  # noqa: N818 - the word in the report
    """An observation that the model does not allow."""


class Configuration(NamedTuple):
    """One possibility.

    Attributes:
        state: the state of the cluster.
        pending: operations with their phase, or with an answer that is not observed yet.
        notes: notifications that are sent and not observed yet, in order.
    """

    state: State
    pending: frozenset[tuple[Operation, str | Answer]]
    notes: tuple[Note, ...]


class Checker:
    """The possible states of one cluster.

    Attributes:
        widest: the largest number of possibilities so far.
        slowest: duration of the longest search, in seconds.
        ending: the runtime shuts down: it sends TERM to containers, then KILL, and unmounts.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.widest = 1
        self.slowest = 0.0
        self.ending = False
        empty = State(("",) * len(cluster.containers))
        self.possible = {Configuration(empty, frozenset(), ())}

    def ask(self, operation: Operation) -> None:
        """Note that an operation is sent now."""
        self.possible = {
            c._replace(pending=c.pending | {(operation, BEGIN)}) for c in self.possible
        }

    def answer(self, operation: Operation, answer: Answer) -> None:
        """Check the answer of an operation.

        Raises:
            Violation: the answer is impossible.
        """

        def without(one: Configuration) -> Configuration | None:
            entry = (operation, answer)
            if entry not in one.pending:
                return None
            return one._replace(pending=one.pending - {entry})

        self._observe(without, lambda _: False, f"{operation} answered {answer}")

    def announce(self, kind: str, container: str, status: str = "") -> None:
        """Check a notification.

        Raises:
            Violation: the notification is impossible.
        """

        def without(one: Configuration) -> Configuration | None:
            if not one.notes:
                return None
            (first, about, statuses), *rest = one.notes
            same = about == container and (not statuses or status in statuses)
            return one._replace(notes=tuple(rest)) if first == kind and same else None

        def hopeless(one: Configuration) -> bool:
            return bool(one.notes)

        self._observe(without, hopeless, f"{kind} {container} {status} announced")

    def settle(self, *, idle: bool) -> None:
        """Check that no request is pending; an abandoned one is complete or was never received.

        Args:
            idle: also check that nothing is installed and every notification was observed.

        Raises:
            Violation: this is impossible.
        """
        settled = {
            Configuration(one.state, frozenset(), one.notes)
            for one in self._closure(self.possible)
            # An abandoned operation that has not begun was never received.
            if all(operation.abandoned and phase == BEGIN for operation, phase in one.pending)
        }
        if idle:
            empty = State(("",) * len(self.cluster.containers))
            settled &= {Configuration(empty, frozenset(), ())}
        if not settled:
            raise Violation(f"it should be idle; possible states: {self.possible}")
        self.possible = settled

    def restart(self) -> None:
        """Note that the runtime ended, at any point of its operations, and is started again."""
        self.ending = False
        self.possible = {
            Configuration(restarted(one.state), frozenset(), ())
            for one in self._closure(self.possible)
        }

    def possibly(self, condition: Callable[[State], bool]) -> bool:
        """Return whether `condition` holds in a possible state."""
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
                # Steps that are possible before the observation are possible after it too.
                found.add(taken)
            elif not hopeless(one):
                for following in self.following(one):
                    if following not in seen:
                        seen.add(following)
                        todo.append(following)
            if len(seen) > MOST:
                raise AssertionError(
                    f"too many possibilities before {what}, from {len(self.possible)}"
                )
        if not found:
            raise Violation(f"{what}; possible were {self._describe()}")
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
        """Yield every possibility that follows from this one by one step."""
        for entry in one.pending:
            operation, phase = entry
            if isinstance(phase, tuple):
                continue
            following = steps(self.cluster, one.state, operation, phase, shutdown=self.ending)
            for state, then, note in following:
                notes = (*one.notes, note) if note is not None else one.notes
                pending = one.pending - {entry}
                if not (operation.abandoned and isinstance(then, tuple)):
                    # The answer of an abandoned operation is never observed.
                    pending |= {(operation, then)}
                yield Configuration(state, pending, notes)
        for state, note in ends(self.cluster, one.state, shutdown=self.ending):
            yield Configuration(state, one.pending, (*one.notes, note))
        if self.ending:
            for state in unmounted(one.state):
                yield one._replace(state=state)
