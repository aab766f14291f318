"""Probes of readiness and health: when they begin, and what their results mean."""

from __future__ import annotations

import logging
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from northstar import core
from northstar.api.status import ContainerState
from northstar.core import actions, events, probes
from northstar.core.actions import EndProbe, Log, SendSignal, SetDeadline, StartProbe
from northstar.manifest import ConnectProbe, ExecProbe
from northstar.model import Container, Exited
from northstar.model.notify import NotifyMessage
from tests.unit.core.worlds import (
    APP,
    FAILED,
    NOTIFY,
    ON_FAILURE,
    OTHER,
    READY,
    SECOND,
    World,
    lines,
    manifest,
    reason,
    state,
    supervised,
)

CHECK: dict[str, Any] = {"exec": ["/bin/check", "--fast"]}
HEALTH: dict[str, Any] = {**ON_FAILURE, "health": {"probe": CHECK}}
PROBED: dict[str, Any] = {**ON_FAILURE, "ready": {"probe": {"connect": "tcp:80"}}}
START = StartProbe(APP, ExecProbe(("/bin/check", "--fast")), 5 * SECOND)
SUCCEEDED, FAILURE = events.ProbeSucceeded(APP), events.ProbeFailed(APP, "exit 1: queue is stuck")
LACKING = events.ProbeLacking(APP, "Too many open files")
UNHEALTHY = "unhealthy: exit 1: queue is stuck"


def shown(**service: Any) -> World:
    """Return a world with a container that is only shown as unhealthy, with its defaults."""
    return supervised({**HEALTH, "health": {"probe": CHECK, "action": "none"}, **service})


def fail(there: World, number: int) -> list[str]:
    """Let probes fail, and return the log."""
    log = []
    for _ in range(number):
        there.at_probe(APP)
        log += lines(there.changed(FAILURE))
    return log


# Readiness.


def test_the_readiness_is_probed_from_the_execution_on():
    there = supervised(PROBED).launch(APP)
    decided = there.changed(events.Executed(APP, 42))
    assert StartProbe(APP, ConnectProbe("tcp:80"), 5 * SECOND) in decided
    assert state(there) == ("running", "up")
    there.also(SUCCEEDED)
    assert state(there) == ("ready", "up")
    assert there.entry(APP).timer is None


def test_a_probe_of_the_readiness_that_takes_50_seconds_to_succeed():
    there = supervised(PROBED).run(APP)
    executed, times = there.now, []
    while there.now < executed + 50 * SECOND:
        times.append(there.now)
        decided = there.changed(events.ProbeFailed(APP, "connection refused"))
        assert lines(decided) == []
        there.at_probe(APP)
    there.also(SUCCEEDED)
    assert state(there) == ("ready", "up")
    # Each answer takes a second here, and the next probe comes a second later.
    assert times == [executed + 2 * n * SECOND for n in range(25)]
    assert there.entry(APP).history.restarts == 0


def test_a_readiness_that_no_probe_confirms():
    there = supervised(PROBED).run(APP)
    executed, failure = there.now, events.ProbeFailed(APP, "connection refused")
    for _ in range(29):
        there.also(failure)
        there.at_probe(APP)
    there.also(failure)
    decided = there.at_deadline(APP)
    assert there.now == executed + 60 * SECOND
    assert lines(decided)[0] == "Probe of app:1.0.0 has failed: connection refused"
    assert decided[-1] == SendSignal(APP, 15)
    assert reason(there) == "not ready within 60s"
    there.end(APP, Exited(0))
    assert state(there) == ("backoff", "up")


def test_a_probe_in_progress_ends_with_the_time_for_the_readiness():
    there = supervised(PROBED).run(APP)
    decided = there.at_deadline(APP)
    assert EndProbe(APP) in decided
    assert there.changed(SUCCEEDED) == ()
    assert state(there) == ("stopping", "up")


def test_a_message_does_not_replace_the_probe_of_the_readiness():
    there = supervised({**PROBED, "notify": "/n"}).run(APP)
    there.also(events.Notified(APP, READY))
    assert state(there) == ("running", "up")


def test_the_health_is_probed_from_the_readiness_on():
    there = supervised({**NOTIFY, **HEALTH}).run(APP)
    assert there.entry(APP).next_probe is None
    there.also(events.Notified(APP, READY))
    assert there.entry(APP).next_probe == probes.first_of_health(there.entry(APP), there.now)
    both = supervised({**PROBED, **HEALTH}).run(APP)
    both.also(SUCCEEDED)
    assert both.at_probe(APP) == (START,)


# Health.


def test_the_times_of_the_probes():
    there = supervised(HEALTH).run(APP)
    ready = there.now
    first = there.entry(APP).next_probe
    assert first is not None
    assert ready + 10 * SECOND <= first < ready + 12.5 * SECOND
    assert there.at_probe(APP) == (START,)
    # Never two at once.
    assert there.changed(events.DeadlineReached(APP)) == ()
    there.now += 4 * SECOND
    following = there.now + SECOND + 10 * SECOND
    assert there.changed(SUCCEEDED) == (SetDeadline(APP, following),)


@given(st.integers(1, 500), st.integers(1, 365 * 86400))
def test_the_first_probes_are_spread(number: int, seconds: int):
    one = Container.parse(f"app{number}:1.0.0")
    service = {"health": {"probe": CHECK, "interval": f"{seconds}s"}}
    entry = World().load(manifest(one, service=service)).entry(one)
    first = probes.first_of_health(entry, 0)
    assert first is not None
    assert seconds * SECOND <= first <= (seconds + seconds / 4) * SECOND
    assert first == probes.first_of_health(entry, 0)


def test_the_first_probes_are_spread_evenly():
    quarters = [0, 0, 0, 0]
    for number in range(400):
        one = Container.parse(f"app{number}:1.0.0")
        entry = World().load(manifest(one, service={"health": {"probe": CHECK}})).entry(one)
        first = probes.first_of_health(entry, 0)
        assert first is not None
        quarters[int((first / SECOND - 10) / 2.5 * 4)] += 1
    assert min(quarters) > 60


def test_three_failures_in_a_row_end_the_run():
    there = supervised(HEALTH).run(APP)
    log = fail(there, 3)
    assert log == [
        "Probe of app:1.0.0 has failed (1 of 3): exit 1: queue is stuck",
        "Probe of app:1.0.0 has failed (2 of 3): exit 1: queue is stuck",
        "Probe of app:1.0.0 has failed (3 of 3): exit 1: queue is stuck",
        f"State of app:1.0.0: unhealthy ({UNHEALTHY})",
        f"State of app:1.0.0: stopping ({UNHEALTHY})",
        "Killing app:1.0.0 with SIGTERM",
    ]
    assert state(there) == ("stopping", "up")
    # With any exit code it has failed, and the policy decides.
    there.end(APP, Exited(0))
    assert state(there) == ("backoff", "up")
    assert reason(there) == UNHEALTHY


def test_a_success_between_failures():
    there = supervised(HEALTH).run(APP)
    for _ in range(20):
        fail(there, 2)
        there.at_probe(APP)
        there.also(SUCCEEDED)
        assert state(there) == ("ready", "up")
    fail(there, 3)
    assert state(there) == ("stopping", "up")


def test_without_a_policy_an_unhealthy_container_stays_down():
    there = supervised({"health": {"probe": CHECK, "failures": 1}}).run(APP)
    fail(there, 1)
    there.end(APP, Exited(0))
    assert state(there) == ("failed", "down")
    assert reason(there) == UNHEALTHY


def test_the_failures_of_a_run_do_not_count_for_the_next_one():
    there = supervised(HEALTH).run(APP)
    fail(there, 2)
    there.end(APP)
    there.at_deadline(APP)
    automatic = events.StartRequested(APP, cause=core.Cause.AUTOMATIC)
    there.also(automatic, events.Executed(APP, 42))
    fail(there, 2)
    assert state(there) == ("ready", "up")


def test_an_unhealthy_container_that_is_only_shown():
    there = shown().run(APP)
    log = fail(there, 10)
    assert state(there) == ("unhealthy", "up")
    assert reason(there) == UNHEALTHY
    # One line for each failure up to the change, and none after it.
    assert len(log) == 4
    there.at_probe(APP)
    decided = there.changed(SUCCEEDED)
    assert lines(decided) == ["State of app:1.0.0: ready"]
    assert state(there) == ("ready", "up")
    fail(there, 2)
    assert state(there) == ("ready", "up")
    fail(there, 1)
    assert state(there) == ("unhealthy", "up")


def test_what_is_shown_as_unhealthy_is_judged_by_its_exit():
    for status, expected in ((Exited(0), "installed"), (FAILED, "backoff")):
        there = shown().run(APP)
        fail(there, 3)
        there.end(APP, status)
        assert state(there)[0] == expected


def test_the_watchdog_goes_on_beside_probes():
    there = shown(notify="/n", watchdog="15s").run(APP)
    ready = there.now
    alive = events.Notified(APP, NotifyMessage(watchdog=True))
    for _ in range(3):
        there.at_probe(APP)
        there.also(alive, FAILURE)
    assert state(there) == ("unhealthy", "up")
    assert there.now > ready + 30 * SECOND
    last = there.entry(APP).deadline
    there.at_probe(APP)
    decided = there.at_deadline(APP)
    assert there.now == last
    assert EndProbe(APP) in decided
    assert reason(there) == "watchdog"
    assert state(there) == ("stopping", "up")


def test_both_times_need_one_timer():
    there = supervised({**HEALTH, "notify": "/n", "watchdog": "11s"}).run(APP)
    entry = there.entry(APP)
    assert entry.next_probe is not None
    assert entry.deadline is not None
    timer = min(entry.next_probe, entry.deadline)
    assert entry.timer == timer
    if entry.next_probe > entry.deadline:
        there.also(events.Notified(APP, NotifyMessage(watchdog=True)))
    decided = there.at_probe(APP)
    # The time of the watchdog is set again when the probe begins.
    assert decided == (START, SetDeadline(APP, there.entry(APP).deadline))


# Lack of resources of the runtime.


def test_what_the_runtime_lacks_is_no_failure():
    there = supervised(HEALTH).run(APP)
    fail(there, 2)
    warnings: list[Log] = []
    for _ in range(50):
        there.at_probe(APP)
        decided = there.changed(LACKING)
        warnings += [one for one in decided if isinstance(one, Log)]
    assert state(there) == ("ready", "up")
    (warning,) = warnings
    assert warning.level == logging.WARNING
    assert "Too many open files" in warning.message
    # It is no success either.
    fail(there, 1)
    assert state(there) == ("stopping", "up")


def test_one_warning_for_all_containers():
    there = World().load(manifest(APP, service=HEALTH), manifest(OTHER, service=HEALTH))
    there.run(APP).run(OTHER)
    warnings = []
    for _ in range(5):
        for one in (APP, OTHER):
            there.at_probe(one)
            warnings += lines(there.changed(events.ProbeLacking(one, "why")))
    assert len(warnings) == 1
    # Some probes that can be executed, and others that cannot: at most one warning a minute.
    begun, warnings = there.now, []
    while there.now < begun + 600 * SECOND:
        for one, event in ((APP, SUCCEEDED), (OTHER, events.ProbeLacking(OTHER, "why"))):
            there.at_probe(one)
            warnings += lines(there.changed(event))
    assert 5 <= len(warnings) <= 10


def test_a_readiness_that_cannot_be_probed_is_bounded():
    there = supervised(PROBED).run(APP)
    there.also(LACKING)
    assert there.entry(APP).next_probe == there.now + SECOND
    there.at_deadline(APP)
    assert reason(there) == "not ready within 60s"


# Ends.


@pytest.mark.parametrize(
    "end",
    [
        events.StopRequested(APP),
        events.RestartRequested(APP),
        events.KillRequested(APP, 15),
        events.Notified(APP, NotifyMessage(stopping=True)),
        events.ProcessExited(APP, FAILED),
        events.ShutdownBegan(),
    ],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("in_progress", [True, False])
def test_no_probe_after_the_begin_of_the_end(end: events.Event, in_progress: bool):
    for there in (
        supervised({**HEALTH, "notify": "/n"}).run(APP),
        supervised({**PROBED, "notify": "/n"}).run(APP).also(FAILURE),
    ):
        if in_progress:
            there.at_probe(APP)
        decided = there.changed(end)
        assert (EndProbe(APP) in decided) is in_progress
        assert there.entry(APP).next_probe is None
        for result in (SUCCEEDED, FAILURE, LACKING):
            assert there.changed(result) == ()


def test_other_signals_leave_the_probes():
    there = supervised(HEALTH).run(APP)
    there.at_probe(APP)
    assert EndProbe(APP) not in there.changed(events.KillRequested(APP, 1))
    assert there.entry(APP).probing


def test_no_probe_in_the_shutdown():
    for service in (PROBED, HEALTH):
        there = supervised(service).launch(APP).also(events.ShutdownBegan())
        decided = there.changed(events.Executed(APP, 42))
        assert not any(isinstance(one, StartProbe) for one in decided)
        assert there.entry(APP).timer is None


@pytest.mark.parametrize("result", [SUCCEEDED, FAILURE, LACKING])
def test_results_that_nothing_waits_for(result: events.Event):
    assert World().changed(result) == ()
    assert supervised(HEALTH).changed(result) == ()
    assert supervised(HEALTH).run(APP).changed(result) == ()


def test_a_refusal_of_probes_is_gone():
    for service in (HEALTH, PROBED):
        there = supervised(service).run(APP)
        assert there.entry(APP).state in (ContainerState.READY, ContainerState.RUNNING)
        there.also(events.RestartRequested(APP))
        assert there.entry(APP).state is ContainerState.STOPPING
        assert actions.StartProbe not in {type(a) for a in there.end(APP)}
