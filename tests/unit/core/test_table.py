"""Every event in every state, by a table. An observation without a row changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from northstar import core
from northstar.core import events
from northstar.core.events import Event
from northstar.model import Exited, InternalError
from tests.unit.core.worlds import APP, LIB2, NEWER, OTHER, World, manifest, world

EXIT = Exited(1)


def mounting() -> World:
    return world().also(events.MountRequested(APP))


def mounted() -> World:
    return mounting().also(events.ImageMounted(APP))


def unmounting() -> World:
    return mounted().also(events.UmountRequested(APP))


def waiting_for_images() -> World:
    return world().also(events.StartRequested(APP))


def launched() -> World:
    return world().launch(APP)


def running() -> World:
    return world().run(APP)


def signalled() -> World:
    return running().also(events.KillRequested(APP, 15))


def stopping() -> World:
    return signalled().also(events.SignalSent(APP))


def exited() -> World:
    return running().also(events.ProcessExited(APP, EXIT))


def unmounted_to_remove() -> World:
    return mounted().also(events.UninstallRequested(APP))


def removing_unmounted() -> World:
    return unmounted_to_remove().also(events.ImageUnmounted(APP))


def removing() -> World:
    return world().also(events.UninstallRequested(APP, wipe=True))


def wiping() -> World:
    return removing().also(events.PackageRemoved(APP))


def detached() -> World:
    return wiping().also(events.DataDetached(APP))


def unknown() -> World:
    return removing().also(events.PackageRemoved(APP), events.DataWiped(APP))


def mounted_while_another_version_runs() -> World:
    return mounted().run(NEWER)


def shutting_down() -> World:
    return mounted().also(events.ShutdownBegan())


def shutting_down_while_running() -> World:
    return running().also(events.ShutdownBegan())


EVENTS: dict[str, Event] = {
    "mount": events.MountRequested(APP),
    "umount": events.UmountRequested(APP),
    "start": events.StartRequested(APP),
    "kill TERM": events.KillRequested(APP, 15),
    "kill HUP": events.KillRequested(APP, 1),
    "uninstall": events.UninstallRequested(APP),
    "wipe": events.UninstallRequested(APP, wipe=True),
    "mounted": events.ImageMounted(APP),
    "mount failed": events.MountFailed(APP, "why"),
    "unmounted": events.ImageUnmounted(APP),
    "umount failed": events.UmountFailed(APP, "why"),
    "lost": events.ImageLost(APP),
    "executed": events.Executed(APP, 42),
    "start failed": events.StartFailed(APP, "why"),
    "directory missing": events.DirectoryMissing(APP, "/lib"),
    "signal sent": events.SignalSent(APP),
    "exited": events.ProcessExited(APP, EXIT),
    "released": events.Released(APP),
    "removed": events.PackageRemoved(APP),
    "removal failed": events.RemovalFailed(APP, "why"),
    "detached": events.DataDetached(APP),
    "wiped": events.DataWiped(APP),
    "wipe failed": events.WipeFailed(APP, "why"),
    "signal all": events.SignalAll(9),
    "umount all": events.UmountAll(),
}
REQUESTS = [name for name, event in EVENTS.items() if isinstance(event, events.Request)]

BUSY = dict.fromkeys(REQUESTS, "internal error")
"""Requests that the runtime queues, since another one on the container is in progress."""

NOT_INSTALLED = dict.fromkeys(REQUESTS, "refused invalid_container app:1.0.0")
STARTED = "refused start_container_started app:1.0.0"
NOT_STARTED = "refused stop_container_not_started app:1.0.0"
IN_USE = "refused umount_busy app:1.0.0"
LATER = "refused unexpected the runtime is shutting down"

TABLE: dict[Callable[[], World], dict[str, str]] = {
    world: {
        "mount": "installed down mounting mount: Mount app:1.0.0",
        "umount": IN_USE,
        "start": "starting up mounting start: Mount app:1.0.0, Mount lib:2.0.0",
        "kill TERM": NOT_STARTED,
        "kill HUP": NOT_STARTED,
        "uninstall": "removing down unmounted uninstall: RemovePackage app:1.0.0",
        "wipe": "removing down unmounted uninstall: RemovePackage app:1.0.0",
    },
    mounting: BUSY
    | {
        "mounted": "installed down mounted -: Log, Complete app:1.0.0",
        "mount failed": "installed down unmounted -: Complete app:1.0.0 unexpected",
    },
    mounted: {
        "mount": "refused invalid_container app:1.0.0",
        "umount": "installed down unmounting umount: Umount app:1.0.0",
        "start": "starting up mounted start: Mount lib:2.0.0",
        "kill TERM": NOT_STARTED,
        "kill HUP": NOT_STARTED,
        "uninstall": "removing down unmounting uninstall: Umount app:1.0.0",
        "wipe": "removing down unmounting uninstall: Umount app:1.0.0",
        "lost": "installed down unmounted -: Log",
        "umount all": "installed down unmounting -: Umount app:1.0.0",
    },
    unmounting: BUSY
    | {
        "unmounted": "installed down unmounted -: Log, Complete app:1.0.0",
        "umount failed": "installed down mounted -: Complete app:1.0.0 unexpected",
    },
    waiting_for_images: BUSY
    | {
        "mounted": "starting up mounted start: Log",
        "mount failed": "starting up unmounted start:",
    },
    launched: BUSY
    | {
        "lost": "starting up unmounted start: Log",
        "executed": "ready up mounted -: Log, Publish, Complete app:1.0.0",
        "start failed": "failed down mounted -: Log, Complete app:1.0.0 start_container_failed",
        "directory missing": "failed down mounted -: "
        "Log, Complete app:1.0.0 start_container_missing_resource",
    },
    running: {
        "mount": "refused invalid_container app:1.0.0",
        "umount": IN_USE,
        "start": STARTED,
        "kill TERM": "stopping down mounted kill: Log, SendSignal app:1.0.0",
        "kill HUP": "ready up mounted kill: Log, SendSignal app:1.0.0",
        "uninstall": IN_USE,
        "wipe": IN_USE,
        "lost": "ready up unmounted -: Log",
        "exited": "ready up mounted -: Log, Release app:1.0.0",
        "signal all": "stopping down mounted -: Log, SendSignal app:1.0.0",
    },
    signalled: BUSY
    | {
        "lost": "stopping down unmounted kill: Log",
        "signal sent": "stopping down mounted -: Complete app:1.0.0",
        "exited": "stopping down mounted kill: Log, Release app:1.0.0",
        "signal all": "stopping down mounted kill: Log, SendSignal app:1.0.0",
    },
    stopping: {
        "mount": "refused invalid_container app:1.0.0",
        "umount": IN_USE,
        "start": STARTED,
        "kill TERM": "stopping down mounted kill: Log, SendSignal app:1.0.0",
        "kill HUP": "stopping down mounted kill: Log, SendSignal app:1.0.0",
        "uninstall": IN_USE,
        "wipe": IN_USE,
        "lost": "stopping down unmounted -: Log",
        "exited": "stopping down mounted -: Log, Release app:1.0.0",
        "signal all": "stopping down mounted -: Log, SendSignal app:1.0.0",
    },
    exited: {
        "mount": "refused invalid_container app:1.0.0",
        "umount": IN_USE,
        "start": STARTED,
        "kill TERM": "ready down mounted kill: Log, SendSignal app:1.0.0",
        "kill HUP": "ready up mounted kill: Log, SendSignal app:1.0.0",
        "uninstall": IN_USE,
        "wipe": IN_USE,
        "lost": "ready up unmounted -: Log",
        "released": "failed down mounted -: Log, Publish",
        "signal all": "ready down mounted -: Log, SendSignal app:1.0.0",
    },
    unmounted_to_remove: BUSY
    | {
        "unmounted": "removing down unmounted uninstall: Log, RemovePackage app:1.0.0",
        "umount failed": "installed down mounted -: Complete app:1.0.0 unexpected",
    },
    removing_unmounted: BUSY
    | {
        "removed": "gone: Publish, Complete app:1.0.0",
        "removal failed": "installed down unmounted -: Complete app:1.0.0 unexpected",
    },
    removing: BUSY
    | {
        "removed": "gone: Publish, WipeData app:1.0.0",
        "removal failed": "installed down unmounted -: Complete app:1.0.0 unexpected",
    },
    wiping: NOT_INSTALLED
    | {
        "detached": "gone:",
        "wiped": "gone: Complete app:1.0.0",
        "wipe failed": "gone: Complete app:1.0.0 unexpected",
    },
    detached: NOT_INSTALLED
    | {
        "wiped": "gone: Complete app:1.0.0",
        "wipe failed": "gone: Complete app:1.0.0 unexpected",
    },
    unknown: NOT_INSTALLED,
    mounted_while_another_version_runs: {
        "mount": "refused invalid_container app:1.0.0",
        "umount": "installed down unmounting umount: Umount app:1.0.0",
        "start": "refused start_container_started app:2.0.0",
        "kill TERM": NOT_STARTED,
        "kill HUP": NOT_STARTED,
        "uninstall": "removing down unmounting uninstall: Umount app:1.0.0",
        "wipe": "refused umount_busy app:2.0.0",
        "lost": "installed down unmounted -: Log",
        "signal all": "installed down mounted -: Log, SendSignal app:2.0.0",
        "umount all": "installed down unmounting -: Umount app:1.0.0",
    },
    shutting_down: {
        "mount": LATER,
        "umount": LATER,
        "start": "refused start_container_failed app:1.0.0 the runtime is shutting down",
        "kill TERM": NOT_STARTED,
        "kill HUP": NOT_STARTED,
        "uninstall": LATER,
        "wipe": LATER,
        "lost": "installed down unmounted -: Log",
        "umount all": "installed down unmounting -: Umount app:1.0.0",
    },
    shutting_down_while_running: {
        "mount": LATER,
        "umount": LATER,
        "start": STARTED,
        "kill TERM": "stopping down mounted kill: Log, SendSignal app:1.0.0",
        "kill HUP": "ready up mounted kill: Log, SendSignal app:1.0.0",
        "uninstall": LATER,
        "wipe": LATER,
        "lost": "ready up unmounted -: Log",
        "exited": "ready up mounted -: Log, Release app:1.0.0",
        "signal all": "stopping down mounted -: Log, SendSignal app:1.0.0",
    },
}


def outcome(there: World, event: Event) -> str:
    """Describe the result of an event, in the notation of the table."""
    before = there.state
    try:
        result = there.step(event)
    except InternalError:
        return "internal error"
    if isinstance(result, core.Refused):
        assert there.state is before
        fields = [str(getattr(result.error, name)) for name in type(result.error).__struct_fields__]
        return " ".join(["refused", kind(result.error), *fields])
    if result.state == before and not result.actions:
        return "ignored"
    entry = result.state.containers.get(APP)
    words = ["gone"]
    if entry is not None:
        operation = entry.operation.value if entry.operation is not None else "-"
        words = [entry.state.value, entry.wanted.value, entry.image.value, operation]
    decided = [a for a in result.actions if not isinstance(a, core.actions.PublishState)]
    return f"{' '.join(words)}: {', '.join(map(describe, decided))}".rstrip()


def kind(error: object) -> str:
    name = type(error).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def describe(action: object) -> str:
    words = [type(action).__name__, str(getattr(action, "container", ""))]
    failure = getattr(action, "error", None)
    return " ".join([*words, kind(failure)] if failure is not None else words).rstrip()


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.__name__)
def test_event(situation: Callable[[], World], name: str):
    expected = TABLE[situation].get(name, "ignored")
    assert outcome(situation(), EVENTS[name]) == expected


def test_every_request_is_in_every_row():
    for situation, row in TABLE.items():
        assert set(REQUESTS) <= row.keys(), situation.__name__


def test_every_image_and_operation_is_in_the_table():
    entries = [situation().state.containers.get(APP) for situation in TABLE]
    known = [entry for entry in entries if entry is not None]
    # Those of supervised containers are in test_service_table.py.
    supervised = {"waiting", "running", "unhealthy", "backoff"}
    states = {entry.state.value for entry in known}
    assert states == {state.value for state in core.ContainerState} - supervised - {"failed"}
    assert {entry.image for entry in known} == set(core.Image)
    assert {entry.operation for entry in known} == {*core.Operation, None}


def test_a_used_resource_is_busy_for_its_user():
    there = running()
    for event in (events.UmountRequested(LIB2), events.UninstallRequested(LIB2)):
        assert str(there.refused(event)) == str(world().refused(events.UmountRequested(APP)))


def test_a_resource_is_not_started():
    assert kind(world().refused(events.StartRequested(LIB2))) == "start_container_resource"


def test_requests_on_other_containers_are_independent():
    for event in (
        events.MountRequested(OTHER),
        events.StartRequested(OTHER),
        events.UninstallRequested(OTHER),
    ):
        there = launched()
        there.changed(event)
        assert there.entry(OTHER).operation is not None
        assert there.entry(APP).operation is core.Operation.START


def test_the_manifest_is_the_one_that_was_stored():
    assert world().entry(OTHER).manifest == manifest(OTHER)
