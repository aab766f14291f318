"""The pace of automatic restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from northstar import core
from northstar.core import actions, events, pacing
from northstar.model import Container
from tests.unit.core.worlds import SECOND, World, manifest

LOOP = {"restart": {"policy": "always", "delay": "10ms", "max_delay": "10ms"}}
LOOPS = [Container.parse(f"app{number}:1.0.0") for number in range(pacing.BURST + 10)]


@given(st.lists(st.integers(0, SECOND), max_size=3 * pacing.BURST), st.integers(0, 2**62))
def test_the_rate_is_bounded_in_each_period(waits: list[int], now: int) -> None:
    paced, starts = 0, []
    for wait in waits:
        now += wait
        start, paced = pacing.reserve(paced, now)
        assert start >= now
        starts.append(start)
    assert starts == sorted(starts)
    for first, begin in enumerate(starts):
        for last in range(first + pacing.BURST, len(starts)):
            allowed = pacing.BURST + (starts[last] - begin) // pacing.INTERVAL
            assert last - first + 1 <= allowed


@given(st.lists(st.integers(pacing.INTERVAL, SECOND), max_size=3 * pacing.BURST))
def test_a_rate_below_the_limit_is_not_delayed(waits: list[int]) -> None:
    paced = now = 0
    for wait in waits:
        now += wait
        start, paced = pacing.reserve(paced, now)
        assert start == now


def loops() -> World:
    """Return a world with containers that have just failed."""
    there = World().load(*(manifest(container, service=LOOP) for container in LOOPS))
    for container in LOOPS:
        there.run(container)
        there.end(container)
    return there


def expire(there: World, container: Container, now: int) -> list[actions.Action]:
    """Report the deadline of a container at a time."""
    there.now = now - SECOND
    return list(there.changed(events.DeadlineReached(container)))


def test_restarts_beyond_the_burst_get_a_later_time() -> None:
    there = loops()
    now = there.now + SECOND
    for container in LOOPS[: pacing.BURST]:
        decided = expire(there, container, now)
        assert decided == [actions.RequestStart(container, core.Cause.AUTOMATIC)]
    for number, container in enumerate(LOOPS[pacing.BURST :], 1):
        when = now + number * pacing.INTERVAL
        assert expire(there, container, now) == [actions.SetDeadline(container, when)]
        assert core.status_of(there.state, container, now).next == when - now
        assert not there.entry(container).due
    for number, container in enumerate(LOOPS[pacing.BURST :], 1):
        # The reserved time is not reserved a second time.
        decided = expire(there, container, now + number * pacing.INTERVAL)
        assert decided == [actions.RequestStart(container, core.Cause.AUTOMATIC)]


def test_a_start_request_does_not_wait_for_a_reserved_time() -> None:
    there = loops()
    now = there.now + SECOND
    for container in LOOPS:
        expire(there, container, now)
    container = LOOPS[-1]
    assert there.entry(container).reserved
    decided = there.changed(events.StartRequested(container))
    assert any(isinstance(action, actions.Launch) for action in decided)
    assert not there.entry(container).reserved
