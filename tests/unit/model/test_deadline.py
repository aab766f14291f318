"""A deadline has passed only if an attempt that began after it has failed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from northstar.model.deadline import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_attempt_after_the_deadline_is_the_last_one() -> None:
    clock = Clock()
    deadline = Deadline(10.0, clock)
    assert deadline.left() == 10.0
    clock.now += 9.0
    assert not deadline.passed()
    assert deadline.left() == 1.0
    clock.now += 1.0
    # The attempt that failed before this call may have begun before the deadline.
    assert not deadline.passed()
    assert deadline.left() == 0.0
    assert deadline.passed()
    assert deadline.passed()


def test_without_any_time_there_is_one_attempt() -> None:
    for seconds in (0.0, -1.0):
        deadline = Deadline(seconds, Clock())
        assert deadline.left() == 0.0
        assert deadline.passed()


def test_time_in_which_the_process_was_stopped_is_added_once() -> None:
    clock = Clock()
    deadline = Deadline(10.0, clock)
    clock.now += 13.0
    assert not deadline.passed()
    assert deadline.left() == 3.0
    clock.now += 50.0
    assert not deadline.passed()
    assert deadline.left() == 0.0
    assert deadline.passed()


def test_no_more_than_the_time_itself_is_added() -> None:
    clock = Clock()
    deadline = Deadline(2.0, clock)
    clock.now += 1000.0
    assert not deadline.passed()
    assert deadline.left() == 2.0


@given(st.floats(0, 100), st.lists(st.floats(0, 300), max_size=20))
def test_some_attempt_begins_after_the_deadline_and_it_ends(
    seconds: float, steps: list[float]
) -> None:
    clock = Clock()
    begun = clock.now
    end = begun + seconds
    deadline = Deadline(seconds, clock)
    for step in [*steps, *[seconds + 1.0] * 4]:
        clock.now += step
        if deadline.passed():
            assert begun >= end
            return
        begun = clock.now
    raise AssertionError("the deadline never passes")
