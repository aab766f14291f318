"""What a soak notes of the runtime's memory, and how it judges that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median_low
from typing import Final, NamedTuple

from soak.counted import Counts


class Memory(NamedTuple):
    """The runtime's memory after a round.

    Attributes:
        life: of the runtime.
        step: of the run.
        own: its anonymous memory in KiB. Not its PSS: programs that share its libraries change
            that as they come and go.
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
"""What is compared in the end, and the part by which it may grow.

A leak shows in the first two: they count what is in use, to the block. The third is what the
machine has less of. It grows as well where what is in use lies scattered, since neither allocator
gives back what is not wholly free (Python's takes a mebibyte at a time, a twentieth of all).
"""

JUDGED: Final = 20_000
"""Operations of a life from which on it is judged: until then caches fill, last of all those that
malloc has for each thread, which count as in use.
"""


def compare(memory: Sequence[Memory]) -> Iterator[tuple[str, bool]]:
    """Compare what the last life used after its first fifth, the warm-up, with its end.

    Yields:
        A line about each measure, and whether that has grown by more than it may.
    """
    last = [row for row in memory if row.life == memory[-1].life]
    settled = last[len(last) // 5 :]
    half = len(settled) // 2 or 1
    for name, (measure, limit) in MEASURES.items():
        # Medians of the two halves: a single round may end with a connection more or less.
        begin = median_low(map(measure, settled[:half]))
        end = median_low(map(measure, settled[-half:]))
        every = [*map(measure, last)]
        growth = end / begin - 1 if begin else 0.0
        text = (
            f"{name}: {every[0]} after the first round, {begin} after warm-up, {end} at the end "
            f"({growth:+.2%} of {limit:.1%}), lowest {min(every)}, highest {max(every)}"
        )
        yield text, growth > limit and last[-1].step - last[0].step >= JUDGED
