"""Starts, exits and signals: their results, and the order of refusals."""

from __future__ import annotations

import logging

import pytest

from northstar import core
from northstar.api import error, notification
from northstar.core import ContainerState, Image, Wanted, actions, events
from northstar.core.actions import Action, Complete, Fail, Launch, Log, Mount, Publish
from northstar.manifest import Command
from northstar.model import Container, Exited, Name, Signalled
from tests.unit.core.worlds import (
    APP,
    LIB,
    LIB2,
    NEWER,
    OTHER,
    World,
    manifest,
    resource,
    uses,
    world,
)


def lines(decided: tuple[Action, ...]) -> list[tuple[int, str]]:
    return [(one.level, one.message) for one in decided if isinstance(one, Log)]


def kinds(decided: tuple[Action, ...]) -> list[type]:
    return [type(action) for action in decided]


# The command of a start.


@pytest.mark.parametrize(
    ("asked", "executed"),
    [
        (events.StartRequested(APP), Command("/bin/app", ("-a",), {"A": "1"})),
        (events.StartRequested(APP, init=""), Command("/bin/app", ("-a",), {"A": "1"})),
        (events.StartRequested(APP, init="/bin/sh"), Command("/bin/sh", ("-a",), {"A": "1"})),
        (
            events.StartRequested(APP, init="/strace <INIT>"),
            Command("/strace /bin/app", ("-a",), {"A": "1"}),
        ),
        (
            events.StartRequested(APP, arguments=("-b", "c")),
            Command("/bin/app", ("-b", "c"), {"A": "1"}),
        ),
        (
            events.StartRequested(APP, environment={"B": "2"}),
            Command("/bin/app", ("-a",), {"B": "2"}),
        ),
    ],
)
def test_command(asked: events.StartRequested, executed: Command):
    there = World().load(manifest(APP, args=["-a"], env={"A": "1"}))
    there.changed(asked)
    (launch,) = there.changed(events.ImageMounted(APP))[1:]
    assert launch == Launch(APP, executed, {})


def test_an_init_for_a_container_without_one_is_unchanged():
    there = World().load(resource(LIB))
    there.changed(events.StartRequested(LIB, init="/bin/<INIT>"))
    decided = there.changed(events.ImageMounted(LIB))
    assert decided[-1] == Launch(LIB, Command("/bin/<INIT>", (), {}), {})


# Order of the refusals of a start: in each row all later causes apply as well.


def test_order_of_refusals():
    reserved = {"NORTHSTAR_NAME": "x"}
    there = World().load(resource(LIB), manifest(APP, mounts=uses("lib", "absent")))
    there.load(manifest(NEWER)).run(NEWER)
    there.also(events.ShutdownBegan())

    absent = Container.parse("absent:1.0.0")
    assert there.refused(
        events.StartRequested(absent, environment=reserved)
    ) == error.InvalidContainer(absent)
    assert there.refused(
        events.StartRequested(APP, environment=reserved)
    ) == error.StartContainerStarted(NEWER)
    assert there.refused(
        events.StartRequested(LIB, environment=reserved)
    ) == error.InvalidArguments(
        "the variable NORTHSTAR_NAME is reserved; leave it out, the runtime sets it"
    )
    assert there.refused(events.StartRequested(LIB)) == error.StartContainerResource(LIB)
    there.also(events.ProcessExited(NEWER, Exited(0)), events.Released(NEWER))
    assert there.refused(events.StartRequested(APP)) == error.StartContainerFailed(
        APP, "the runtime is shutting down"
    )


@pytest.mark.parametrize("name", ["", "A=B", "NORTHSTAR_CONSOLE"])
def test_names_of_variables(name: str):
    refusal = world().refused(events.StartRequested(OTHER, environment={name: "x"}))
    assert isinstance(refusal, error.InvalidArguments)


# Resources.


def test_the_newest_match_is_chosen_and_kept():
    there = world().run(APP)
    run = there.entry(APP).run
    assert run is not None
    assert run.resources == {"/lib": LIB2}
    there.load(resource(Container.parse("lib:3.0.0")))
    assert there.entry(APP).run == run
    assert there.state.users_of(LIB2) == {APP}
    assert there.state.users_of(LIB) == frozenset()


def test_a_container_that_is_being_uninstalled_is_no_candidate():
    there = world().also(events.UninstallRequested(LIB2))
    there.changed(events.StartRequested(APP))
    run = there.entry(APP).run
    assert run is not None
    assert run.resources == {"/lib": LIB}


def test_a_missing_resource():
    there = World().load(manifest(APP, mounts=uses("lib", version="^7")), resource(LIB))
    refusal = there.refused(events.StartRequested(APP))
    assert refusal == error.StartContainerMissingResource(APP, Name("lib"), "^7")


def test_a_missing_directory_names_the_version_of_the_resource():
    there = world().launch(APP)
    decided = there.changed(events.DirectoryMissing(APP, "/lib"))
    failure = error.StartContainerMissingResource(APP, Name("lib"), "2.0.0")
    assert decided[-1] == Complete(APP, failure)
    assert lines(decided) == [(logging.WARNING, f"Cannot start app:1.0.0: {failure}")]
    assert there.state.users == {}


def test_a_resource_that_two_mounts_use_is_held_once():
    mounts = uses("lib") | {"/again": uses("lib")["/lib"]}
    there = World().load(manifest(APP, mounts=mounts), resource(LIB))
    decided = there.changed(events.StartRequested(APP))
    assert decided == (Mount(APP), Mount(LIB))
    there.also(events.ImageMounted(APP), events.ImageMounted(LIB))
    there.also(events.StartFailed(APP, "why"))
    assert there.state.users == {}


# Images of a start.


def test_images_are_mounted_at_once_and_the_last_one_launches():
    there = world()
    assert there.changed(events.StartRequested(APP)) == (Mount(APP), Mount(LIB2))
    assert kinds(there.changed(events.ImageMounted(LIB2))) == [Log]
    assert kinds(there.changed(events.ImageMounted(APP))) == [Log, Launch]


def test_a_start_fails_once_no_image_of_it_is_in_transition():
    there = world()
    there.changed(events.StartRequested(APP))
    assert there.changed(events.MountFailed(APP, "first")) == ()
    decided = there.changed(events.MountFailed(LIB2, "second"))
    assert decided[-1] == Complete(APP, error.StartContainerFailed(APP, "first"))
    assert there.entry(APP).state is ContainerState.FAILED
    assert there.entry(APP).wanted is Wanted.DOWN
    assert there.state.running == {}


def test_a_failed_start_keeps_its_images_mounted():
    there = world()
    there.changed(events.StartRequested(APP))
    there.changed(events.MountFailed(APP, "why"), events.ImageMounted(LIB2))
    assert there.entry(LIB2).image is Image.MOUNTED
    assert there.entry(APP).image is Image.UNMOUNTED


def test_a_start_waits_for_the_end_of_an_unmount_and_mounts_again():
    there = world().also(events.MountRequested(LIB2), events.ImageMounted(LIB2))
    there.also(events.UmountRequested(LIB2))
    assert there.changed(events.StartRequested(APP)) == (Mount(APP),)
    assert kinds(there.changed(events.ImageMounted(APP))) == [Log]
    decided = there.changed(events.ImageUnmounted(LIB2))
    assert decided[1:] == (Complete(LIB2), Mount(LIB2))
    assert kinds(there.changed(events.ImageMounted(LIB2))) == [Log, Launch]


def test_a_start_continues_after_a_failed_unmount():
    there = world().also(events.MountRequested(LIB2), events.ImageMounted(LIB2))
    there.also(events.UmountRequested(LIB2), events.StartRequested(APP), events.ImageMounted(APP))
    decided = there.changed(events.UmountFailed(LIB2, "why"))
    assert decided[0] == Complete(LIB2, error.Unexpected("cannot unmount lib:2.0.0: why"))
    assert kinds(decided[1:]) == [Launch]


def test_an_image_is_mounted_once_for_all_that_wait_for_it():
    there = world().load(manifest(Container.parse("second:1.0.0"), mounts=uses("lib")))
    second = Container.parse("second:1.0.0")
    there.also(events.StartRequested(APP), events.ImageMounted(APP))
    assert there.changed(events.StartRequested(second)) == (Mount(second),)
    assert there.changed(events.MountRequested(LIB2)) == ()
    there.also(events.ImageMounted(second))
    decided = there.changed(events.ImageMounted(LIB2))
    assert Complete(LIB2) in decided
    assert [a.container for a in decided if isinstance(a, Launch)] == [APP, second]


def test_apps_that_use_each_other_start():
    one, two = Container.parse("one:1.0.0"), Container.parse("two:1.0.0")
    there = World().load(manifest(one, mounts=uses("two")), manifest(two, mounts=uses("one")))
    there.also(events.StartRequested(one), events.StartRequested(two))
    there.also(events.ImageMounted(one))
    launched = there.changed(events.ImageMounted(two))
    assert [a.container for a in launched if isinstance(a, Launch)] == [one, two]


def test_a_lost_image_is_mounted_again():
    there = world().also(events.MountRequested(OTHER), events.ImageMounted(OTHER))
    there.also(events.ImageLost(OTHER))
    assert there.changed(events.StartRequested(OTHER)) == (Mount(OTHER),)


# Running and exiting.


def test_started_is_announced_before_it_is_answered():
    there = world().launch(APP)
    decided = there.changed(events.Executed(APP, 4711))
    assert decided[1:] == (Publish(notification.Started(APP)), Complete(APP))
    assert lines(decided) == [(logging.INFO, "Started app:1.0.0 (4711) in 3.000s")]


def test_an_exit_is_announced_when_everything_is_released():
    there = world().run(APP)
    there.now += 1_500_000_000
    decided = there.changed(events.ProcessExited(APP, Signalled(15)))
    line = "Process app:1.0.0 exited after 2.500s with status Signalled(SIGTERM)"
    assert lines(decided) == [(logging.INFO, line)]
    assert kinds(decided) == [Log, actions.Release]
    decided = there.changed(events.Released(APP))
    assert decided[1:] == (Publish(notification.Exit(APP, Signalled(15))),)
    line = "Container app:1.0.0 exited with status Signalled(SIGTERM)"
    assert lines(decided) == [(logging.DEBUG, line)]
    assert there.state.running == {}
    assert there.state.users == {}
    assert there.entry(APP).image is Image.MOUNTED


def critical() -> World:
    return World().load(manifest(APP, autostart="critical"))


def test_a_critical_container_that_fails_ends_the_runtime():
    there = critical().run(APP)
    decided = there.changed(events.ProcessExited(APP, Exited(3)))
    line = "Critical process app:1.0.0 exited after 1.000s with status Exit(3)"
    assert lines(decided) == [(logging.ERROR, line)]
    decided = there.changed(events.Released(APP))
    assert decided[-1] == Fail(error.CriticalContainer(APP, Exited(3)))


def test_a_critical_container_that_exits_with_0_is_no_failure():
    there = critical().run(APP).also(events.ProcessExited(APP, Exited(0)))
    assert Fail not in kinds(there.changed(events.Released(APP)))


def test_a_critical_container_may_end_during_the_shutdown():
    there = critical().run(APP).also(events.ShutdownBegan(), events.SignalAll(9))
    decided = there.changed(events.ProcessExited(APP, Signalled(9)))
    assert lines(decided)[0][0] == logging.INFO
    assert Fail not in kinds(there.changed(events.Released(APP)))


@pytest.mark.parametrize("autostart", ["critical", "relaxed"])
@pytest.mark.parametrize("accepted", [True, False])
def test_a_failing_autostart(autostart: str, accepted: bool):
    mounts = {} if accepted else uses("absent")
    there = World().load(manifest(APP, autostart=autostart, mounts=mounts))
    decided = there.changed(events.StartRequested(APP, cause=core.Cause.BOOT))
    if accepted:
        decided = there.changed(events.MountFailed(APP, "why"))
    (line,) = lines(decided)
    assert line[0] == logging.WARNING
    assert line[1].startswith("Cannot start app:1.0.0: ")
    (answer,) = (a for a in decided if isinstance(a, Complete))
    assert answer.error is not None
    failed = [a.error for a in decided if isinstance(a, Fail)]
    assert failed == ([answer.error] if autostart == "critical" else [])


def test_only_the_first_failure_ends_the_runtime():
    there = World().load(manifest(APP, autostart="critical"), manifest(OTHER, autostart="critical"))
    there.run(APP).run(OTHER)
    for container in (APP, OTHER):
        there.also(events.ProcessExited(container, Exited(1)))
    assert Fail in kinds(there.changed(events.Released(APP)))
    assert Fail not in kinds(there.changed(events.Released(OTHER)))


# Signals.


@pytest.mark.parametrize(
    ("number", "name", "ends"),
    [
        (9, "SIGKILL", True),
        (15, "SIGTERM", True),
        (2, "SIGINT", True),
        (3, "SIGQUIT", True),
        (1, "SIGHUP", False),
        (19, "SIGSTOP", False),
        (10, "SIGUSR1", False),
    ],
)
def test_signals_that_end_change_what_is_wanted(number: int, name: str, ends: bool):
    there = world().run(APP)
    decided = there.changed(events.KillRequested(APP, number))
    assert lines(decided) == [(logging.INFO, f"Killing app:1.0.0 with {name}")]
    assert decided[1:] == (actions.SendSignal(APP, number),)
    entry = there.entry(APP)
    assert (entry.state, entry.wanted) == (
        (ContainerState.STOPPING, Wanted.DOWN) if ends else (ContainerState.READY, Wanted.UP)
    )


def test_an_exit_during_a_kill_does_not_answer_it():
    there = world().run(APP).also(events.KillRequested(APP, 9))
    there.also(events.ProcessExited(APP, Signalled(9)))
    assert Complete not in kinds(there.changed(events.Released(APP)))
    assert there.changed(events.SignalSent(APP)) == (Complete(APP),)


def test_a_change_of_phase_updates_its_time():
    there = world()
    before = there.entry(APP).since
    there.launch(APP)
    starting = there.entry(APP).since
    there.also(events.Executed(APP, 42))
    assert before < starting < there.entry(APP).since == there.now
