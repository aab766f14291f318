"""The soak's check of memory: it finds leaks, and ignores growth that is not a leak."""

from __future__ import annotations

from collections.abc import Callable

from soak.counted import Counts
from soak.memory import Memory, compare

ROUNDS = 70
OPERATIONS = 1000


def grown(
    *,
    blocks: Callable[[int], int] = lambda _: 112_000,
    heap: Callable[[int], int] = lambda _: 5_800_000,
    own: Callable[[int], int] = lambda _: 20_000,
    rounds: int = ROUNDS,
) -> list[str]:
    """Return the values that are reported as growing, given their values after each round."""
    memory = [Memory(1, 0, 1, Counts(1, 1, 1))]
    for n in range(rounds):
        counts = Counts(blocks(n), 1700, heap(n))
        memory.append(Memory(2, n * OPERATIONS, own(n), counts))
    return [text.partition(":")[0] for text, grows in compare(memory) if grows]


def test_a_block_in_twenty_operations_is_a_leak() -> None:
    assert grown(blocks=lambda n: 112_000 + n * OPERATIONS // 20) == ["blocks of Python"]


def test_ten_bytes_of_malloc_in_an_operation_are_a_leak() -> None:
    assert grown(heap=lambda n: 5_800_000 + n * OPERATIONS * 10) == ["bytes of malloc"]


def test_fragmentation_counts() -> None:
    assert grown(own=lambda n: 20_000 + n * 40) == ["RssAnon in KiB"]


def test_fluctuation_is_not_a_leak() -> None:
    assert not grown(blocks=lambda n: 112_000 + n % 7 * 200, own=lambda n: 20_000 + n % 2 * 1200)


def test_growth_at_the_beginning_is_not_a_leak() -> None:
    assert not grown(blocks=lambda n: 110_000 + min(n, 14) * 200)


def test_a_short_run_is_not_checked() -> None:
    assert not grown(blocks=lambda n: 100_000 + n * 1000, rounds=10)


def test_a_c_library_without_statistics() -> None:
    assert not grown(heap=lambda _: 0)
