"""The memory of the runtime during a soak, and the limits of its growth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median_low
from typing import Final, NamedTuple

from soak.counted import Counts


class Memory(NamedTuple):
    """The runtime's memory after a round.

    Attributes:
        life: number of the runtime's process.
        step: number of steps so far.
        own: its anonymous memory in KiB. Not its PSS: that changes with each program that shares
            its libraries.
        counts: what it has allocated within that.
    """

    life: int
    step: int
    own: int
    counts: Counts


MEASURES: Final[Mapping[str, tuple[Callable[[Memory], int], float]]] = {
    "blocks of Python": (lambda row: row.counts.blocks, 0.005),
    "bytes of malloc": (lambda row: row.counts.heap, 0.02),
    "RssAnon in KiB": (lambda row: row.own, 0.05),
}
"""The measures that are compared at the end, and the fraction by which each may grow.

The first two show a leak: they count exactly the memory in use. The third is the memory that the
machine lacks. It also grows by fragmentation, since no allocator releases a region before it is
wholly free (a region of Python is a mebibyte, a twentieth of all).
"""

JUDGED: Final = 20_000
"""Operations of a life before its memory is judged: until then caches fill, the last ones being
malloc's caches per thread, which count as in use.
"""


def compare(memory: Sequence[Memory]) -> Iterator[tuple[str, bool]]:
    """Compare the memory of the last life after warm-up (its first fifth) with that at its end.

    Yields:
        A line about each measure, and whether that has grown by more than it may.
    """
    last = [row for row in memory if row.life == memory[-1].life]
    settled = last[len(last) // 5 :]
    half = len(settled) // 2 or 1
    for name, (measure, limit) in MEASURES.items():
        # Medians of the two halves: a single round may end with one connection more or less.
        begin = median_low(map(measure, settled[:half]))
        end = median_low(map(measure, settled[-half:]))
        every = [*map(measure, last)]
        growth = end / begin - 1 if begin else 0.0
        text = (
            f"{name}: {every[0]} after the first round, {begin} after warm-up, {end} at the end "
            f"({growth:+.2%} of {limit:.1%}), lowest {min(every)}, highest {max(every)}"
        )
        yield text, growth > limit and last[-1].step - last[0].step >= JUDGED
