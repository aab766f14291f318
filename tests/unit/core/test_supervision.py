"""Supervised containers: restarts, stops, readiness and watchdog, what is logged and reported."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from northstar import core
from northstar.api import error, notification
from northstar.api.status import ContainerState, Status, Wanted
from northstar.core import actions, events
from northstar.core.actions import Action, Answer, Complete, Defer, Fail, Log, SendSignal
from northstar.core.values import Deferred
from northstar.model import Container, Exited, ExitStatus, Signalled
from northstar.model.notify import NotifyMessage
from tests.unit.core.worlds import (
    ALWAYS,
    APP,
    FAILED,
    NEWER,
    NOTIFY,
    ON_FAILURE,
    READY,
    SECOND,
    World,
    manifest,
    uses,
)

AUTOMATIC = events.StartRequested(APP, cause=core.Cause.AUTOMATIC)
STOPPING = NotifyMessage(stopping=True)
ALIVE = NotifyMessage(watchdog=True)
TRIGGER = NotifyMessage(trigger=True)


def supervised(service: dict[str, Any], **fields: Any) -> World:
    return World().load(manifest(APP, service=service, **fields))


def state(there: World, container: Container = APP) -> tuple[str, str]:
    entry = there.entry(container)
    return entry.state.value, entry.wanted.value


def reason(there: World) -> str:
    return there.entry(APP).reason


def restart(there: World, status: ExitStatus = FAILED) -> int:
    """End the run, and let the runtime start the next one; return the delay in ns."""
    there.end(APP, status)
    begun = there.now
    assert there.at_deadline(APP)[-1] == actions.RequestStart(APP, core.Cause.AUTOMATIC)
    delay = there.now - begun
    there.also(AUTOMATIC, events.Executed(APP, 42))
    return delay


def lines(decided: tuple[Action, ...]) -> list[str]:
    return [one.message for one in decided if isinstance(one, Log)]


# Restarts.


def test_restarts_in_a_row_come_later_and_later():
    there = supervised(ON_FAILURE).run(APP)
    delays = [restart(there) for _ in range(8)]
    assert delays == [2**n * SECOND for n in range(8)]
    assert there.entry(APP).history.restarts == 8
    assert there.entry(APP).history.runs == 9


def test_a_run_that_was_ready_for_reset_after_resets_the_delay():
    service = {"restart": {"policy": "on-failure", "reset_after": "100s"}}
    there = supervised(service).run(APP)
    assert [restart(there) for _ in range(3)] == [SECOND, 2 * SECOND, 4 * SECOND]
    there.now = there.entry(APP).since + 98 * SECOND
    assert restart(there) == 8 * SECOND
    there.now = there.entry(APP).since + 99 * SECOND
    assert restart(there) == SECOND
    assert there.entry(APP).history.restarts == 5


def test_time_that_is_not_ready_does_not_reset_the_delay():
    service = {"restart": {"policy": "on-failure", "reset_after": "10s"}, **NOTIFY}
    there = supervised(service).run(APP)
    restart(there)
    there.now += 50 * SECOND
    assert restart(there) == 2 * SECOND


def test_a_start_request_resets_the_delay_and_the_count():
    there = supervised(ON_FAILURE).run(APP)
    assert [restart(there) for _ in range(3)] == [SECOND, 2 * SECOND, 4 * SECOND]
    there.end(APP)
    there.run(APP)
    assert there.entry(APP).history.restarts == 0
    assert restart(there) == SECOND


def test_an_automatic_start_repeats_the_command():
    there = supervised(ON_FAILURE)
    there.also(events.StartRequested(APP, arguments=("-x",)), events.ImageMounted(APP))
    there.also(events.Executed(APP, 42))
    there.end(APP)
    there.at_deadline(APP)
    (launch,) = [a for a in there.changed(AUTOMATIC) if isinstance(a, actions.Launch)]
    assert launch.command.arguments == ("-x",)
    there.also(events.Executed(APP, 42))
    there.end(APP, Exited(0))
    (launch,) = [
        a for a in there.changed(events.StartRequested(APP)) if isinstance(a, actions.Launch)
    ]
    assert launch.command.arguments == ()


def test_the_next_start_chooses_resources_anew():
    lib, newer = Container.parse("lib:1.0.0"), Container.parse("lib:2.0.0")
    there = supervised(ON_FAILURE, mounts=uses("lib")).load(manifest(lib, init=None)).run(APP)
    there.end(APP)
    assert there.state.users == {}
    there.load(manifest(newer, init=None)).at_deadline(APP)
    there.also(AUTOMATIC)
    assert there.state.users == {newer: {APP}}


def test_a_missing_resource_is_a_failure_of_an_automatic_start():
    lib = Container.parse("lib:1.0.0")
    there = supervised(ON_FAILURE, mounts=uses("lib")).load(manifest(lib, init=None)).run(APP)
    there.end(APP)
    there.also(events.UmountRequested(lib), events.ImageUnmounted(lib))
    there.also(events.UninstallRequested(lib), events.PackageRemoved(lib))
    there.at_deadline(APP)
    there.also(AUTOMATIC)
    assert state(there) == ("backoff", "up")
    assert reason(there).startswith("start failed: app:1.0.0 needs the resource lib")
    assert there.entry(APP).history.in_a_row == 1
    assert there.entry(APP).operation is None


def test_a_failing_start_request_is_not_repeated():
    there = supervised(ALWAYS).launch(APP)
    decided = there.changed(events.StartFailed(APP, "why"))
    assert decided[-1] == Complete(APP, error.StartContainerFailed(APP, "why"))
    assert state(there) == ("failed", "down")


def test_the_limit_is_never_exceeded_and_then_the_container_fails():
    service = {"restart": {"policy": "always", "factor": 1, "limit": 3, "interval": "1h"}}
    there = supervised(service, autostart="critical").run(APP)
    for _ in range(3):
        restart(there)
    decided = there.end(APP)
    assert state(there) == ("failed", "down")
    assert reason(there) == "exit 1, 3 restarts within 3600s"
    assert Fail(error.CriticalContainer(APP, FAILED)) in decided


def test_a_critical_container_with_a_policy_is_restarted_and_logged_as_others():
    there = supervised(ON_FAILURE, autostart="critical").run(APP)
    decided = there.changed(events.ProcessExited(APP, FAILED))
    assert lines(decided)[0].startswith("Process app:1.0.0 exited")
    there.also(events.Released(APP))
    assert state(there) == ("backoff", "up")


def test_another_version_ends_the_back_off():
    there = supervised(ALWAYS).load(manifest(NEWER)).run(APP)
    there.end(APP)
    there.run(NEWER)
    assert state(there) == ("installed", "down")
    assert reason(there) == "app:2.0.0 is started"
    assert state(there, NEWER) == ("ready", "up")


def test_umount_and_uninstall_in_back_off():
    there = supervised(ALWAYS).run(APP)
    there.end(APP)
    there.also(events.UmountRequested(APP), events.ImageUnmounted(APP))
    assert state(there) == ("backoff", "up")
    there.also(events.UninstallRequested(APP))
    assert state(there) == ("removing", "down")
    assert there.state.pending == {}
    there.also(events.RemovalFailed(APP, "why"))
    assert state(there) == ("installed", "down")


def test_a_request_in_progress_delays_an_automatic_start():
    there = supervised(ALWAYS).run(APP)
    there.end(APP)
    there.also(events.UmountRequested(APP))
    assert there.at_deadline(APP)[-1] == actions.RequestStart(APP, core.Cause.AUTOMATIC)
    assert there.changed(events.DeadlineReached(APP)) == ()
    there.also(events.ImageUnmounted(APP), AUTOMATIC)
    assert state(there) == ("starting", "up")


# Signals of clients.


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
    assert str(answer.error) == "app:1.0.0 is not started again: restart requested"
    there.end(APP)
    assert state(there) == ("installed", "down")


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


def test_probes_are_refused_by_a_start():
    probe = {"probe": {"exec": ["/bin/check"]}}
    for service, field in (
        ({"ready": probe}, "service.ready.probe"),
        ({"health": probe}, "service.health"),
    ):
        refusal = supervised(service).refused(events.StartRequested(APP))
        assert isinstance(refusal, error.StartContainerFailed)
        assert refusal.error == f"this runtime has no probes yet, and the manifest has {field}"


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
        ("stopping", "up"),
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
