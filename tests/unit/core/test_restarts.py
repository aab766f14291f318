"""Restarts of supervised containers: the delays, their limit, and what ends them."""

from __future__ import annotations

from northstar import core
from northstar.api import error
from northstar.core import actions, events
from northstar.core.actions import Complete, Fail
from northstar.model import Container, Exited
from northstar.model.notify import NotifyMessage
from tests.unit.core.worlds import (
    ALWAYS,
    APP,
    AUTOMATIC,
    FAILED,
    NEWER,
    NOTIFY,
    ON_FAILURE,
    SECOND,
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
