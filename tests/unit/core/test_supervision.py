"""Supervised containers: readiness and watchdog, and what is logged and reported."""

from __future__ import annotations

import logging

import pytest

from northstar import core
from northstar.api import notification
from northstar.api.status import ContainerState, Status, Wanted
from northstar.core import actions, events
from northstar.core.actions import Log, SendSignal
from northstar.model import Exited, Signalled
from northstar.model.notify import NotifyMessage
from tests.unit.core.worlds import (
    ALWAYS,
    APP,
    AUTOMATIC,
    FAILED,
    NOTIFY,
    ON_FAILURE,
    READY,
    SECOND,
    World,
    lines,
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


# Readiness.


def test_ready_reported_in_time():
    there = supervised(NOTIFY).run(APP)
    assert state(there) == ("running", "up")
    there.also(events.Notified(APP, READY))
    assert state(there) == ("ready", "up")
    assert there.entry(APP).deadline is None
    assert there.changed(events.Notified(APP, READY)) == ()


def test_not_ready_in_time():
    there = supervised({**ON_FAILURE, **NOTIFY}).run(APP)
    decided = there.at_deadline(APP)
    assert decided[-1] == SendSignal(APP, 15)
    assert reason(there) == "not ready within 60s"
    assert state(there) == ("stopping", "up")
    there.also(events.Notified(APP, READY))
    assert state(there) == ("stopping", "up")
    there.end(APP, Exited(0))
    assert state(there) == ("backoff", "up")
    assert reason(there) == "not ready within 60s"


def test_without_ready_it_is_ready_when_executed():
    assert state(supervised({}).run(APP)) == ("ready", "up")
    assert state(World().load(manifest(APP)).run(APP)) == ("ready", "up")


@pytest.mark.parametrize(
    ("after", "by", "expected"),
    [
        (10, 20, 60),  # not before its own end
        (50, 30, 80),
        (50, 10_000, 600),  # ten times
        (59, 1, 60),
    ],
)
def test_extend_timeout(after: int, by: int, expected: int):
    there = supervised(NOTIFY).run(APP)
    executed = there.now
    there.now = executed + (after - 1) * SECOND
    decided = there.changed(events.Notified(APP, NotifyMessage(extend=by * SECOND)))
    assert there.entry(APP).deadline == executed + expected * SECOND
    assert decided == ()
    there.now = executed + 59 * SECOND
    decided = there.changed(events.DeadlineReached(APP))
    if expected > 60:
        # The timer is set again only now.
        assert decided == (actions.SetDeadline(APP, executed + expected * SECOND),)
        there.at_deadline(APP)
    assert reason(there) == f"not ready within {expected}s"


def test_an_extension_can_be_shortened():
    there = supervised(NOTIFY).run(APP)
    executed = there.now
    there.also(events.Notified(APP, NotifyMessage(extend=300 * SECOND)))
    shorter = executed + 102 * SECOND
    decided = there.changed(events.Notified(APP, NotifyMessage(extend=100 * SECOND)))
    assert decided == (actions.SetDeadline(APP, shorter),)


# The app stops.


def test_an_app_that_stops_by_itself():
    there = supervised({**ALWAYS, "notify": "/n", "watchdog": "5s"}).run(APP)
    decided = there.changed(events.Notified(APP, STOPPING))
    assert SendSignal not in {type(a) for a in decided}
    assert state(there) == ("stopping", "up")
    assert there.entry(APP).deadline == there.now + 10 * SECOND
    assert there.at_deadline(APP)[-1] == SendSignal(APP, 9)
    there.end(APP, Signalled(9))
    assert state(there) == ("backoff", "up")


def test_it_is_sent_the_stop_signal_once():
    there = supervised({"notify": "/n"}).run(APP).also(events.Notified(APP, STOPPING))
    assert SendSignal(APP, 15) in there.changed(events.StopRequested(APP))
    assert SendSignal(APP, 15) not in there.changed(events.StopRequested(APP))


# Watchdog.

WATCHDOG = {**ON_FAILURE, "notify": "/n", "watchdog": "30s"}


def test_a_watchdog_that_is_served():
    there = supervised(WATCHDOG).run(APP)
    first = there.entry(APP).deadline
    assert first == there.now + 30 * SECOND
    for _ in range(5):
        assert there.changed(events.Notified(APP, ALIVE)) == ()
    last = there.now + 30 * SECOND
    there.now = first - SECOND
    assert there.changed(events.DeadlineReached(APP)) == (actions.SetDeadline(APP, last),)
    assert state(there) == ("ready", "up")


@pytest.mark.parametrize("how", ["missed", "trigger"])
def test_a_watchdog_that_fails(how: str):
    there = supervised(WATCHDOG).run(APP)
    if how == "missed":
        decided = there.at_deadline(APP)
    else:
        decided = there.changed(events.Notified(APP, TRIGGER))
    assert lines(decided)[:2] == [
        "State of app:1.0.0: unhealthy (watchdog)",
        "State of app:1.0.0: stopping (watchdog)",
    ]
    assert state(there) == ("stopping", "up")
    there.end(APP, Exited(0))
    assert state(there) == ("backoff", "up")
    assert reason(there) == "watchdog"


def test_the_watchdog_begins_when_it_is_ready():
    there = supervised({**WATCHDOG, **NOTIFY}).run(APP)
    assert there.entry(APP).deadline == there.now + 60 * SECOND
    there.also(events.Notified(APP, ALIVE))
    assert there.entry(APP).deadline == there.now + 59 * SECOND
    there.also(events.Notified(APP, READY))
    assert there.entry(APP).deadline == there.now + 30 * SECOND


def test_watchdog_messages_without_a_watchdog():
    there = supervised({"notify": "/n"}).run(APP)
    assert there.changed(events.Notified(APP, ALIVE)) == ()
    assert there.entry(APP).deadline is None


def test_the_watchdog_rests_in_the_shutdown():
    there = supervised(WATCHDOG).run(APP).also(events.ShutdownBegan())
    assert there.entry(APP).deadline is None
    for message in (ALIVE, TRIGGER):
        assert there.changed(events.Notified(APP, message)) == ()


# Reports.


def test_out_of_memory():
    there = supervised(ON_FAILURE).run(APP)
    there.also(events.ProcessExited(APP, Signalled(9), oom=True), events.Released(APP))
    assert state(there) == ("backoff", "up")
    assert reason(there) == "oom"


def test_the_log_of_a_supervised_container():
    there = supervised({"restart": {"policy": "on-failure", "delay": "4s"}})
    assert lines(there.changed(events.StartRequested(APP))) == ["State of app:1.0.0: starting"]
    there.also(events.ImageMounted(APP))
    assert lines(there.changed(events.Executed(APP, 42)))[1:] == ["State of app:1.0.0: ready"]
    assert lines(there.end(APP))[1:] == [
        "State of app:1.0.0: backoff (exit 1), next start in 4.0s",
    ]
    assert lines(there.changed(events.StopRequested(APP))) == [
        "State of app:1.0.0: installed (stopped)"
    ]
    there.run(APP)
    there.end(APP, Exited(0))
    there.run(APP).also(events.RestartRequested(APP))
    decided = there.changed(events.StopRequested(APP))
    assert lines(decided) == ["State of app:1.0.0: stopping (restart requested), wanted down"]


def test_a_container_without_service_logs_no_state():
    there = World().load(manifest(APP))
    decided = there.changed(events.StartRequested(APP))
    decided += there.changed(events.ImageMounted(APP), events.Executed(APP, 42))
    decided += there.end(APP)
    assert not [line for line in lines(decided) if "State" in line]


def test_each_change_is_reported():
    there = supervised(ON_FAILURE)
    reported: list[tuple[str, str]] = []
    for event in (
        events.StartRequested(APP),
        events.ImageMounted(APP),
        events.Executed(APP, 42),
        events.ProcessExited(APP, FAILED),
        events.Released(APP),
        events.StopRequested(APP),
    ):
        result = there.step(event)
        assert isinstance(result, core.Changed)
        entries = [a.entry for a in result.actions if isinstance(a, actions.PublishState)]
        reported += [(entry.state.value, entry.wanted.value) for entry in entries]
    assert reported == [
        ("starting", "up"),
        ("ready", "up"),
        ("backoff", "up"),
        ("installed", "down"),
    ]


def test_started_and_exit_are_published_for_every_run():
    there = supervised(ALWAYS).run(APP)
    published = list(there.end(APP))
    there.at_deadline(APP)
    there.also(AUTOMATIC)
    published += there.changed(events.Executed(APP, 42))
    assert [a.notification for a in published if isinstance(a, actions.Publish)] == [
        notification.Exit(APP, FAILED),
        notification.Started(APP),
    ]


def test_the_status():
    there = supervised({**ON_FAILURE, "notify": "/n"})
    now = there.now
    assert core.status_of(there.state, APP, now) == Status(
        Wanted.DOWN, ContainerState.INSTALLED, 0, "", 0, 0, None, None, None
    )
    there.run(APP).also(events.Notified(APP, NotifyMessage(status="working")))
    restart(there)
    there.also(events.Notified(APP, NotifyMessage(status="again")))
    there.end(APP, Signalled(11))
    assert core.status_of(there.state, APP, there.now + SECOND // 2) == Status(
        wanted=Wanted.UP,
        state=ContainerState.BACKOFF,
        since=SECOND // 2,
        reason="SIGSEGV",
        run=2,
        restarts=1,
        next=2 * SECOND - SECOND // 2,
        text="again",
        last=Signalled(11),
    )
    late = core.status_of(there.state, APP, there.now + 9 * SECOND)
    assert late.next == 0


def test_an_empty_text_removes_it():
    there = supervised({"notify": "/n"}).run(APP)
    for text, expected in (("one", "one"), ("", None)):
        there.also(events.Notified(APP, NotifyMessage(status=text)))
        assert there.entry(APP).history.text == expected


def test_the_status_of_an_unknown_container():
    with pytest.raises(Exception, match="is not installed"):
        core.status_of(World().state, APP, 0)


def test_a_warning_names_why_a_start_failed():
    there = supervised(ON_FAILURE, mounts=uses("absent"))
    decided = there.changed(events.StartRequested(APP, cause=core.Cause.BOOT))
    levels = [one.level for one in decided if isinstance(one, Log) and "Cannot" in one.message]
    assert levels == [logging.WARNING]
