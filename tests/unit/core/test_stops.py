"""Stops of containers: signals, stop and restart requests of clients."""

from __future__ import annotations

from typing import Any

import pytest

from northstar import core
from northstar.api import error
from northstar.core import actions, events
from northstar.core.actions import Answer, Complete, Defer, SendSignal
from northstar.core.values import Deferred
from northstar.model import Container, Exited, ExitStatus, Signalled
from northstar.model.notify import NotifyMessage
from tests.unit.core.worlds import (
    ALWAYS,
    APP,
    FAILED,
    NEWER,
    NOTIFY,
    SECOND,
    World,
    manifest,
    reason,
    restart,
    state,
    supervised,
    uses,
)

STOPPING = NotifyMessage(stopping=True)
ALIVE = NotifyMessage(watchdog=True)
TRIGGER = NotifyMessage(trigger=True)


@pytest.mark.parametrize("number", [9, 15, 2, 3])
def test_a_kill_that_ends_is_not_followed_by_a_restart(number: int):
    there = supervised(ALWAYS).run(APP)
    there.also(events.KillRequested(APP, number), events.SignalSent(APP))
    assert state(there) == ("stopping", "down")
    there.end(APP, Signalled(number))
    assert state(there) == ("installed", "down")
    assert reason(there) == "stopped"


def test_other_signals_change_no_intent():
    there = supervised(ALWAYS).run(APP)
    there.also(events.KillRequested(APP, 1), events.SignalSent(APP))
    assert state(there) == ("ready", "up")
    there.end(APP, Signalled(1))
    assert state(there) == ("backoff", "up")


def test_its_own_stop_signal_ends_it():
    there = supervised({**ALWAYS, "stop": {"signal": "HUP"}}).run(APP)
    there.also(events.KillRequested(APP, 1))
    assert state(there) == ("stopping", "down")


def test_a_kill_has_no_deadline():
    there = supervised({**ALWAYS, "watchdog": "30s", "notify": "/n"}).run(APP)
    there.also(events.KillRequested(APP, 15))
    assert there.entry(APP).deadline is None


# Stops.


@pytest.mark.parametrize(
    ("service", "asked", "number", "seconds"),
    [
        (None, None, 15, 10),
        ({}, None, 15, 10),
        ({"stop": {"signal": "INT", "timeout": "3s"}}, None, 2, 3),
        ({"stop": {"signal": "INT", "timeout": "3s"}}, 7 * SECOND, 2, 7),
        ({"stop": {"signal": "INT", "timeout": "3s"}}, 0, 2, 0),
    ],
)
def test_a_stop(service: dict[str, Any] | None, asked: int | None, number: int, seconds: int):
    there = World().load(manifest(APP, service=service)).run(APP)
    decided = there.changed(events.StopRequested(APP, asked))
    assert decided[-2:] == (SendSignal(APP, number), Defer(APP, Deferred.STOP))
    assert there.entry(APP).deadline == there.now + seconds * SECOND
    assert state(there) == ("stopping", "down")
    assert there.end(APP, Exited(0))[-1] == Answer(APP, Deferred.STOP)
    assert state(there) == ("installed", "down")


def test_a_stop_that_needs_sigkill():
    there = supervised(ALWAYS).run(APP).also(events.StopRequested(APP))
    decided = there.at_deadline(APP)
    assert decided[-1] == SendSignal(APP, 9)
    assert there.entry(APP).deadline is None
    answer = Answer(APP, Deferred.STOP, killed=True)
    assert there.end(APP, Signalled(9))[-1] == answer
    assert state(there) == ("installed", "down")


def test_a_kill_need_not_wait_for_a_stop():
    there = supervised(ALWAYS).run(APP).also(events.StopRequested(APP, 3600 * SECOND))
    decided = there.changed(events.KillRequested(APP, 9))
    assert decided[-1] == SendSignal(APP, 9)
    there.also(events.SignalSent(APP))
    assert there.end(APP, Signalled(9))[-1] == Answer(APP, Deferred.STOP)


def test_stops_at_a_time_are_all_answered_at_the_exit():
    there = supervised(ALWAYS).run(APP).also(events.StopRequested(APP, 5 * SECOND))
    decided = there.changed(events.StopRequested(APP))
    assert decided == (Defer(APP, Deferred.STOP),)
    answers = [a for a in there.end(APP) if isinstance(a, Answer)]
    assert answers == [Answer(APP, Deferred.STOP)]


def test_a_later_stop_may_have_a_time_of_its_own():
    there = supervised(ALWAYS).run(APP).also(events.StopRequested(APP))
    there.also(events.StopRequested(APP, 60 * SECOND))
    assert there.entry(APP).deadline == there.now + 60 * SECOND
    decided = there.changed(events.StopRequested(APP, SECOND))
    assert decided[0] == actions.SetDeadline(APP, there.now + SECOND)


def test_a_stop_of_an_unhealthy_container_keeps_its_time():
    there = supervised({**ALWAYS, **NOTIFY}).run(APP)
    there.at_deadline(APP)
    deadline = there.entry(APP).deadline
    there.also(events.StopRequested(APP))
    assert there.entry(APP).deadline == deadline
    assert state(there) == ("stopping", "down")
    there.end(APP)
    assert state(there) == ("installed", "down")


@pytest.mark.parametrize("status", [None, FAILED])
def test_a_stop_of_a_container_without_a_process(status: ExitStatus | None):
    there = supervised({})
    if status is not None:
        there.run(APP).end(APP, status)
    before = there.state
    assert there.changed(events.StopRequested(APP)) == (Complete(APP),)
    assert there.state == before


def test_a_stop_during_the_clean_up():
    there = supervised(ALWAYS).run(APP).also(events.ProcessExited(APP, FAILED))
    assert there.changed(events.StopRequested(APP))[-1] == Defer(APP, Deferred.STOP)
    assert there.changed(events.Released(APP))[-1] == Answer(APP, Deferred.STOP)
    assert state(there) == ("installed", "down")


def test_a_stop_of_an_unknown_container():
    unknown = Container.parse("none:1.0.0")
    for event in (events.StopRequested(unknown), events.RestartRequested(unknown)):
        assert World().refused(event) == error.InvalidContainer(unknown)


# Restart requests.


def test_a_restart_request():
    there = supervised({}).run(APP)
    decided = there.changed(events.RestartRequested(APP))
    assert decided[-2:] == (SendSignal(APP, 15), Defer(APP, Deferred.RESTART))
    assert state(there) == ("stopping", "up")
    assert there.end(APP, Signalled(15))[-1] == actions.RequestStart(APP, core.Cause.RESTART)
    there.also(events.StartRequested(APP, cause=core.Cause.RESTART))
    decided = there.changed(events.Executed(APP, 43))
    assert decided[-2:] == (Complete(APP), Answer(APP, Deferred.RESTART))
    assert state(there) == ("ready", "up")
    assert there.entry(APP).history.restarts == 0


def test_a_restart_request_resets_the_delay():
    there = supervised(ALWAYS).run(APP)
    restart(there)
    there.also(events.RestartRequested(APP))
    there.end(APP)
    there.also(events.StartRequested(APP, cause=core.Cause.RESTART), events.Executed(APP, 1))
    assert restart(there) == SECOND


def test_a_restart_whose_start_fails():
    there = supervised(ALWAYS).run(APP).also(events.RestartRequested(APP))
    there.end(APP)
    there.also(events.StartRequested(APP, cause=core.Cause.RESTART))
    decided = there.changed(events.StartFailed(APP, "why"))
    failure = error.StartContainerFailed(APP, "why")
    assert Answer(APP, Deferred.RESTART, failure) in decided
    assert state(there) == ("failed", "down")


@pytest.mark.parametrize("ending", [events.StopRequested(APP), events.KillRequested(APP, 9)])
def test_a_stop_ends_a_restart(ending: events.Event):
    there = supervised(ALWAYS).run(APP).also(events.RestartRequested(APP))
    (answer,) = [a for a in there.changed(ending) if isinstance(a, Answer)]
    assert answer.request is Deferred.RESTART
    assert str(answer.error) == "app:1.0.0 is not started again: it was stopped meanwhile"
    there.end(APP)
    assert state(there) == ("installed", "down")


def restarting(there: World) -> World:
    """Continue a restart request up to the request of the start."""
    there.run(APP).also(events.RestartRequested(APP)).end(APP)
    assert there.entry(APP).due
    return there


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (events.StopRequested(APP), "stopped"),
        (events.UninstallRequested(APP), "it was stopped meanwhile"),
        (events.StartRequested(NEWER), "app:2.0.0 is started"),
        (events.ShutdownBegan(), "the runtime is shutting down"),
    ],
)
def test_what_ends_a_restart_before_its_start(event: events.Event, why: str):
    there = restarting(supervised(ALWAYS).load(manifest(NEWER)))
    answers = [a for a in there.changed(event) if isinstance(a, Answer)]
    text = f"app:1.0.0 is not started again: {why}"
    assert answers == [Answer(APP, Deferred.RESTART, error.Unexpected(text))]
    assert there.entry(APP).wanted is core.Wanted.DOWN
    there.also(events.ImageUnmounted(APP), events.PackageRemoved(APP))
    # The start that was requested before does nothing any more.
    assert there.changed(events.StartRequested(APP, cause=core.Cause.RESTART)) == (Complete(APP),)


def test_a_start_request_is_the_start_of_a_restart():
    there = restarting(supervised(ALWAYS))
    there.also(events.StartRequested(APP))
    decided = there.changed(events.Executed(APP, 43))
    assert decided[-2:] == (Complete(APP), Answer(APP, Deferred.RESTART))
    late = events.StartRequested(APP, cause=core.Cause.RESTART)
    assert there.changed(late) == (Complete(APP),)


def test_a_restart_during_a_stop():
    there = supervised({}).run(APP).also(events.StopRequested(APP), events.RestartRequested(APP))
    assert state(there) == ("stopping", "up")
    decided = there.end(APP)
    assert Answer(APP, Deferred.STOP) in decided
    assert actions.RequestStart(APP, core.Cause.RESTART) in decided


def test_nothing_is_stopped_that_cannot_be_started_again():
    lib = Container.parse("lib:1.0.0")
    there = supervised({}, mounts=uses("lib")).load(manifest(lib, init=None)).run(APP)
    there.state = core.State(
        {APP: there.entry(APP)}, running=there.state.running, users=there.state.users
    )
    refusal = there.refused(events.RestartRequested(APP))
    assert isinstance(refusal, error.StartContainerMissingResource)
