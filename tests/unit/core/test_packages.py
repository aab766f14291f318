"""Repositories, installing and uninstalling; what the boot mounts and starts; the shutdown."""

from __future__ import annotations

import logging

import pytest

from northstar import core
from northstar.api import error, notification
from northstar.core import actions, boot, events
from northstar.core.actions import Complete, Launch, Log, Publish
from northstar.model import Container, Exited
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


def limited(number: int | None = None, size: int | None = None) -> World:
    one = core.Repository(capacity_num=number, capacity_size=size)
    return World(core.State(repositories={"one": one, "two": core.Repository()}))


def full(reason: str) -> error.Unexpected:
    return error.Unexpected(f"repository one is full: {reason}; uninstall something first")


def no_room(needed: str, free: str) -> error.Unexpected:
    return full(f"{needed} needed, {free} free of its capacity_size")


def test_an_unknown_repository():
    refusal = world().refused(events.InstallRequested("three", 1))
    assert refusal == error.InvalidRepository("three")


def test_the_number_of_packages_is_limited():
    there = limited(number=1)
    there.also(events.InstallRequested("one", 100))
    there.load(manifest(APP))
    assert there.refused(events.InstallRequested("one", 100)) == full("its capacity_num is 1")
    assert there.refused(events.PackageVerified("one", OTHER, 100)) == full("its capacity_num is 1")
    there.also(events.InstallRequested("two", 100))


def test_the_sum_of_sizes_is_limited_also_during_an_install():
    there = limited(size=1000).load(manifest(APP), size=900)
    there.also(events.InstallRequested("one", 100), events.PackageGrew("one", 100))
    assert there.refused(events.InstallRequested("one", 101)) == no_room("101 bytes", "100 bytes")
    assert there.refused(events.PackageGrew("one", 101)) == no_room("101 bytes", "100 bytes")
    there.also(events.PackageVerified("one", OTHER, 100))
    assert there.refused(events.PackageGrew("one", 1)) == no_room("1 bytes", "0 bytes")


def test_a_package_that_is_being_stored_is_reserved_and_not_visible():
    there = world().also(events.UninstallRequested(OTHER), events.PackageRemoved(OTHER))
    there.also(events.PackageVerified("one", OTHER, 100))
    assert OTHER not in there.state.containers
    for repository in ("one", "two"):
        refusal = there.refused(events.PackageVerified(repository, OTHER, 100))
        assert refusal == error.InstallDuplicate(OTHER)
    there.also(events.StoreFailed("one", OTHER))
    there.also(events.PackageVerified("two", OTHER, 100))
    decided = there.changed(events.PackageStored("two", manifest(OTHER)))
    assert decided == (
        Log(logging.INFO, "Successfully installed other:1.0.0"),
        Publish(notification.Install(OTHER)),
    )
    assert there.entry(OTHER).repository == "two"


def test_nothing_is_installed_during_the_shutdown():
    there = limited().also(events.ShutdownBegan())
    later = error.Unexpected("the runtime is shutting down")
    assert there.refused(events.InstallRequested("one", 1)) == later
    assert there.refused(events.PackageVerified("one", APP, 1)) == later


def test_a_package_stored_during_the_shutdown_is_not_announced():
    there = World().also(events.PackageVerified("one", APP, 100), events.ShutdownBegan())
    decided = there.changed(events.PackageStored("one", manifest(APP)))
    assert decided == (Log(logging.INFO, "Successfully installed app:1.0.0"),)


def test_of_two_stored_copies_of_a_container_the_first_is_loaded():
    there = World().load(manifest(APP))
    refusal = there.refused(events.PackageLoaded("two", manifest(APP), 100))
    assert refusal == error.InstallDuplicate(APP)
    assert there.entry(APP).repository == "one"
    assert there.state.repositories["two"].packages == {}


def test_uninstalling_is_announced_before_the_data_is_wiped():
    there = world().also(events.UninstallRequested(OTHER, wipe=True))
    decided = there.changed(events.PackageRemoved(OTHER))
    assert decided == (Publish(notification.Uninstall(OTHER)), actions.WipeData(OTHER))
    assert OTHER not in there.state.containers
    assert OTHER not in there.state.repositories["one"].packages
    assert there.changed(events.DataWiped(OTHER)) == (Complete(OTHER),)


def test_data_that_cannot_be_wiped():
    there = world().also(events.UninstallRequested(OTHER, wipe=True))
    there.also(events.PackageRemoved(OTHER))
    text = "other:1.0.0 is uninstalled, but its data is not wiped: why"
    decided = there.changed(events.WipeFailed(OTHER, "why"))
    assert decided == (Complete(OTHER, error.Unexpected(text)),)


@pytest.mark.parametrize(
    ("event", "decided"),
    [
        (events.DataDetached(APP), [Launch]),
        (events.DataWiped(APP), [Complete, Launch]),
        (events.WipeFailed(APP, "why"), [Complete, Launch]),
    ],
)
def test_a_start_of_another_version_waits_until_the_data_is_detached_or_removed(
    event: events.Event, decided: list[type]
):
    there = world().also(events.UninstallRequested(APP, wipe=True), events.PackageRemoved(APP))
    there.launch(NEWER)
    assert there.entry(NEWER).state is core.ContainerState.STARTING
    assert [type(action) for action in there.changed(event)] == decided


def test_a_start_waits_for_an_uninstall_with_a_data_wipe():
    there = world().also(events.UninstallRequested(APP, wipe=True))
    there.launch(NEWER)
    assert there.entry(NEWER).state is core.ContainerState.STARTING
    assert type(there.changed(events.PackageRemoved(APP))[-1]) is actions.WipeData
    assert type(there.changed(events.DataDetached(APP))[-1]) is Launch


@pytest.mark.parametrize("mounted", [True, False])
def test_a_start_continues_when_such_an_uninstall_fails(mounted: bool):
    there = world()
    failed: events.Event = events.RemovalFailed(APP, "why")
    if mounted:
        there.also(events.MountRequested(APP), events.ImageMounted(APP))
        failed = events.UmountFailed(APP, "why")
    there.also(events.UninstallRequested(APP, wipe=True)).launch(NEWER)
    decided = there.changed(failed)
    assert [type(action) for action in decided] == [Complete, Launch]


def test_a_start_does_not_wait_for_an_uninstall_that_keeps_the_data():
    there = world().also(events.UninstallRequested(APP), events.StartRequested(NEWER))
    assert type(there.changed(events.ImageMounted(NEWER))[-1]) is Launch


def test_a_start_does_not_wait_for_the_removal_of_detached_data():
    there = world().also(events.UninstallRequested(APP, wipe=True), events.PackageRemoved(APP))
    there.also(events.DataDetached(APP), events.StartRequested(NEWER))
    assert type(there.changed(events.ImageMounted(NEWER))[-1]) is Launch
    assert there.changed(events.DataWiped(APP)) == (Complete(APP),)


@pytest.mark.parametrize("while_starting", [True, False])
def test_data_that_another_version_uses_is_not_wiped(while_starting: bool):
    there = world().launch(NEWER) if while_starting else world().run(NEWER)
    refusal = there.refused(events.UninstallRequested(APP, wipe=True))
    assert refusal == error.UmountBusy(NEWER)
    there.also(events.UninstallRequested(APP))


def test_boot_mounts_autostart_apps_their_resources_and_whole_repositories():
    mounted = core.Repository(mount_on_start=True)
    there = World(core.State(repositories={"one": core.Repository(), "two": mounted}))
    there.load(resource(LIB), resource(LIB2), manifest(OTHER))
    there.load(manifest(APP, autostart="relaxed", mounts=uses("lib", "absent")))
    there.load(manifest(NEWER), repository="two")
    assert boot.images(there.state) == [NEWER, APP, LIB2]
    assert boot.apps(there.state) == [APP]


def test_the_shutdown_unmounts_unused_images():
    there = world().run(APP)
    there.also(events.MountRequested(OTHER), events.ImageMounted(OTHER), events.ShutdownBegan())
    assert there.changed(events.UmountAll()) == (actions.Umount(OTHER),)
    there.also(events.ProcessExited(APP, Exited(0)), events.Released(APP))
    unmounted = set(there.changed(events.UmountAll()))
    assert unmounted == {actions.Umount(APP), actions.Umount(LIB2)}


def test_an_unmount_that_fails_in_the_shutdown_is_a_warning():
    there = world().also(events.MountRequested(OTHER), events.ImageMounted(OTHER))
    there.also(events.ShutdownBegan(), events.UmountAll())
    decided = there.changed(events.UmountFailed(OTHER, "why"))
    assert decided == (Log(logging.WARNING, "cannot unmount other:1.0.0: why"),)


def test_the_containers_with_a_process():
    there = world().run(APP).launch(OTHER)
    assert core.with_process(there.state) == [APP]
    there.also(events.SignalAll(9))
    assert core.with_process(there.state) == [APP]


def test_a_step_does_not_change_the_former_state():
    there = world()
    before = there.state
    copies = dict(before.containers)
    there.run(APP).also(events.UninstallRequested(OTHER), events.PackageRemoved(OTHER))
    assert before.containers == copies
    assert Container.parse("other:1.0.0") in before.containers
    assert before.running == {}
    assert before.users == {}
