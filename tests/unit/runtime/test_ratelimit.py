"""Limits per second, with a simulated clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from northstar.runtime.ratelimit import WINDOW, SlidingWindow, TokenBucket

# Multiples of 1/64 s are exact as floats: sums of them compare without rounding.
steps = st.lists(st.integers(0, 128).map(lambda n: n / 64), max_size=60)


@given(st.integers(1, 5), steps)
def test_no_window_ever_holds_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    rate = SlidingWindow(limit)
    now, passed = 0.0, []
    for pause in pauses:
        now += pause
        # The caller waits for the returned delay: this must suffice, and no message is lost.
        delay = rate.delay(now)
        if delay:
            assert 0.0 < delay <= WINDOW
            now += delay
            assert rate.delay(now) == 0.0
        passed.append(now)
    for first, beyond in zip(passed, passed[limit:], strict=False):
        assert beyond - first >= WINDOW


def test_the_window_slides() -> None:
    rate = SlidingWindow(2)
    assert rate.delay(0.75) == 0.0
    assert rate.delay(0.875) == 0.0
    # A counter that restarts with each full second would allow this.
    assert rate.delay(1.0) == 0.75
    assert rate.delay(1.75) == 0.0
    assert rate.delay(1.75) == 0.125


def test_a_delayed_message_is_not_counted_twice() -> None:
    rate = SlidingWindow(1)
    assert rate.delay(0.0) == 0.0
    for _ in range(10):
        assert rate.delay(0.5) == 0.5
    assert rate.delay(1.0) == 0.0


def test_a_bucket_allows_a_burst_and_then_a_rate() -> None:
    budget = TokenBucket(rate=8.0, burst=5.0)
    assert budget.spend(5.0, 100.0) == 0.0
    assert budget.spend(1.0, 100.0) == 0.125
    assert budget.spend(0.0, 100.125) == 0.0
    # After a long idle time at most the burst is available.
    assert budget.spend(5.0, 999.0) == 0.0
    assert budget.spend(20.0, 999.0) == 2.5


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 3)), max_size=50))
def test_a_bucket_is_never_exceeded(spent: list[tuple[float, float]]) -> None:
    budget = TokenBucket(rate=10.0, burst=5.0)
    now = total = 0.0
    largest = 0.0
    for amount, pause in spent:
        now += pause + budget.spend(0.0, now)
        budget.spend(amount, now)
        total += amount
        largest = max(largest, amount)
        # The last amount is known only after it is spent.
        assert total <= 5.0 + 10.0 * now + largest + 1e-6 * len(spent)
