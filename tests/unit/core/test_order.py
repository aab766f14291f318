"""`service.after`: starts, their reverse order in the shutdown, and cycles."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from northstar import core
from northstar.api import error
from northstar.api.status import ContainerState, Wanted
from northstar.core import actions, boot, events, order
from northstar.core.actions import Action, Log
from northstar.manifest import Manifest
from northstar.model import Container, Exited, Name
from tests.unit.core.worlds import (
    APP,
    NEWER,
    NOTIFY,
    ON_FAILURE,
    READY,
    SECOND,
    World,
    manifest,
    uses,
)

BROKER = Container.parse("broker:1.0.0")
AUTOMATIC = core.Cause.AUTOMATIC
AFTER_BROKER = {"after": ["broker"]}


def boot_start(container: Container) -> events.StartRequested:
    return events.StartRequested(container, cause=core.Cause.BOOT)


def warnings(decided: tuple[Action, ...]) -> list[str]:
    found = [one for one in decided if isinstance(one, Log) and one.level == logging.WARNING]
    return [one.message for one in found]


def two(**broker: object) -> World:
    return World().load(
        manifest(APP, service=AFTER_BROKER), manifest(BROKER, service={**NOTIFY, **broker})
    )


# A start of the runtime waits for what is about to become ready.


def test_it_waits_while_the_other_starts_and_runs() -> None:
    there = two().also(boot_start(BROKER))
    assert there.changed(boot_start(APP))[-1] == actions.Complete(APP)
    assert there.entry(APP).state is ContainerState.WAITING
    assert there.entry(APP).reason == "for broker"
    there.also(events.ImageMounted(BROKER), events.Executed(BROKER, 42))
    assert there.entry(BROKER).state is ContainerState.RUNNING
    assert there.entry(APP).state is ContainerState.WAITING
    decided = there.changed(events.Notified(BROKER, READY))
    assert decided[-1] == actions.RequestStart(APP, AUTOMATIC)
    decided = there.changed(events.StartRequested(APP, cause=AUTOMATIC))
    assert warnings(decided) == []
    assert there.entry(APP).state is ContainerState.STARTING
    assert there.entry(APP).history.restarts == 0


def test_it_waits_while_the_other_waits() -> None:
    third = Container.parse("third:1.0.0")
    there = two().load(manifest(third, service={"after": ["app"]}))
    there.also(boot_start(BROKER), boot_start(APP), boot_start(third))
    assert there.entry(third).state is ContainerState.WAITING


def test_an_uninstall_of_the_other_ends_the_wait() -> None:
    third = Container.parse("third:1.0.0")
    there = two().load(manifest(third, service={"after": ["app"]}))
    there.also(boot_start(BROKER), boot_start(APP), boot_start(third))
    decided = there.changed(events.UninstallRequested(APP))
    assert actions.RequestStart(third, AUTOMATIC) in decided
    there.also(events.PackageRemoved(APP))
    decided = there.changed(events.StartRequested(third, cause=AUTOMATIC))
    assert warnings(decided) == ["third:1.0.0 does not wait for app: it is not installed"]
    assert there.entry(third).state is ContainerState.STARTING


@pytest.mark.parametrize(
    ("situation", "sentence"),
    [
        ("ready", None),
        ("absent", "it is not installed"),
        ("not wanted", "it is not wanted"),
        ("stopped", "it is not wanted"),
        ("failed", "its state is failed (start failed: why)"),
        ("backoff", "its state is backoff (exit 1)"),
        ("stopping", "its state is stopping (watchdog)"),
    ],
)
def test_it_does_not_wait(situation: str, sentence: str | None) -> None:
    there = two(**ON_FAILURE)
    if situation == "absent":
        there = World().load(manifest(APP, service=AFTER_BROKER))
    elif situation == "failed":
        there.launch(BROKER).also(events.StartFailed(BROKER, "why"))
    elif situation != "not wanted":
        there.run(BROKER)
    if situation == "ready":
        there.also(events.Notified(BROKER, READY))
    elif situation == "stopped":
        there.also(events.StopRequested(BROKER))
    elif situation == "backoff":
        there.end(BROKER)
    elif situation == "stopping":
        there.also(events.Notified(BROKER, READY.__class__(trigger=True)))
    decided = there.changed(boot_start(APP))
    assert there.entry(APP).state is ContainerState.STARTING
    expected = [] if sentence is None else [f"app:1.0.0 does not wait for broker: {sentence}"]
    assert warnings(decided) == expected


def test_a_crash_loop_of_the_other_does_not_keep_it_down() -> None:
    there = two(**ON_FAILURE).also(boot_start(BROKER), boot_start(APP))
    there.also(events.ImageMounted(BROKER), events.Executed(BROKER, 42))
    decided = there.end(BROKER, Exited(1))
    assert decided[-1] == actions.RequestStart(APP, AUTOMATIC)


def test_the_wait_is_bounded_by_the_ready_timeout_of_the_other() -> None:
    there = two().also(boot_start(BROKER), boot_start(APP))
    there.also(events.ImageMounted(BROKER), events.Executed(BROKER, 42))
    decided = there.at_deadline(BROKER)
    assert decided[-1] == actions.RequestStart(APP, AUTOMATIC)
    there.changed(events.StartRequested(APP, cause=AUTOMATIC))
    assert there.entry(APP).state is ContainerState.STARTING


def test_a_start_request_does_not_wait() -> None:
    there = two().also(boot_start(BROKER), events.StartRequested(APP))
    assert there.entry(APP).state is ContainerState.STARTING


def test_a_restart_waits() -> None:
    there = World().load(
        manifest(APP, service={**AFTER_BROKER, **ON_FAILURE}), manifest(BROKER, service=NOTIFY)
    )
    there.run(APP)
    there.end(APP)
    there.also(events.StartRequested(BROKER))
    assert there.at_deadline(APP)[-1] == actions.RequestStart(APP, AUTOMATIC)
    there.also(events.StartRequested(APP, cause=AUTOMATIC))
    assert there.entry(APP).state is ContainerState.WAITING
    there.also(events.ImageMounted(BROKER), events.Executed(BROKER, 42))
    there.also(events.Notified(BROKER, READY), events.StartRequested(APP, cause=AUTOMATIC))
    assert there.entry(APP).history.restarts == 1


def test_any_version_counts() -> None:
    newer = Container.parse("broker:7.0.0")
    there = two().load(manifest(newer, service=NOTIFY)).also(boot_start(newer), boot_start(APP))
    assert there.entry(APP).state is ContainerState.WAITING


@pytest.mark.parametrize("waits", [True, False])
def test_a_boot_start_ends_the_back_off_of_another_version(waits: bool) -> None:
    """The console of another app may have started that one."""
    mounts = {} if waits else uses("absent")
    service = {**AFTER_BROKER, **ON_FAILURE}
    there = World().load(manifest(APP, service=service, mounts=mounts))
    there.load(manifest(NEWER, service=ON_FAILURE), manifest(BROKER, service=NOTIFY))
    there.run(NEWER).end(NEWER)
    if waits:
        there.also(boot_start(BROKER))
    there.also(boot_start(APP))
    expected = ContainerState.WAITING if waits else ContainerState.BACKOFF
    assert there.entry(APP).state is expected
    assert there.entry(NEWER).wanted is Wanted.DOWN


def test_a_wait_is_requested_once_and_forgotten_when_it_ends() -> None:
    there = two().also(boot_start(BROKER), boot_start(APP))
    assert actions.RequestStart(APP, AUTOMATIC) in there.changed(events.MountFailed(BROKER, "why"))
    again = there.changed(events.StartRequested(BROKER), events.MountFailed(BROKER, "why"))
    assert actions.RequestStart(APP, AUTOMATIC) not in again
    there.also(events.StopRequested(APP))
    assert there.changed(events.StartRequested(APP, cause=AUTOMATIC)) == (actions.Complete(APP),)


# Boot.


def test_boot_starts_what_others_come_after_first() -> None:
    chain = [Container.parse(f"c{n}:1.0.0") for n in range(5)]
    there = World()
    for number, container in enumerate(chain):
        service = {"after": [f"c{number + 1}"]} if number < 4 else {}
        there.load(manifest(container, service=service, autostart="relaxed"))
    assert boot.apps(there.state) == chain[::-1]


def test_boot_starts_the_newest_of_several_versions() -> None:
    there = World().load(manifest(NEWER, autostart="relaxed"), manifest(APP, autostart="critical"))
    assert boot.apps(there.state) == [NEWER]
    assert boot.not_started(there.state) == [(APP, NEWER)]
    assert boot.images(there.state) == [NEWER]


def test_the_order_of_apps_without_service_is_that_of_the_registry() -> None:
    apps = [Container.parse(f"{name}:1.0.0") for name in "dbca"]
    there = World().load(*(manifest(container, autostart="relaxed") for container in apps))
    assert boot.apps(there.state) == apps


# The shutdown.


def shut_down(there: World) -> World:
    return there.also(events.ShutdownBegan())


def signalled(decided: tuple[Action, ...]) -> list[tuple[str, int]]:
    found = [one for one in decided if isinstance(one, actions.SendSignal)]
    return [(one.container.name, one.number) for one in found]


def test_the_shutdown_has_the_reverse_order() -> None:
    there = World().load(
        manifest(APP, service={**AFTER_BROKER, "stop": {"signal": "INT", "timeout": "5s"}}),
        manifest(BROKER, service={}),
        manifest(Container.parse("plain:1.0.0")),
    )
    plain = Container.parse("plain:1.0.0")
    shut_down(there.run(BROKER).run(APP).run(plain))
    decided = there.changed(events.StopAll(2 * SECOND))
    assert signalled(decided) == [("app", 2), ("plain", 15)]
    deadlines = {c: there.entry(c).deadline for c in (APP, BROKER, plain)}
    assert deadlines == {APP: there.now + 5 * SECOND, BROKER: None, plain: there.now + 2 * SECOND}
    decided = there.end(APP, Exited(0))
    assert signalled(decided) == [("broker", 15)]
    assert there.entry(BROKER).deadline == there.now + 2 * SECOND
    decided = there.at_deadline(BROKER)
    assert signalled(decided) == [("broker", 9)]
    there.end(BROKER)
    assert there.entry(BROKER).state is ContainerState.INSTALLED


def test_after_sigkill_no_stop_signal_follows() -> None:
    """At the limit of the shutdown all get SIGKILL; the first exit may be noticed before others."""
    there = World().load(
        manifest(APP, service={**AFTER_BROKER, "stop": {"timeout": "1h"}}),
        manifest(BROKER, service={}),
    )
    shut_down(there.run(BROKER).run(APP)).also(events.StopAll(SECOND))
    assert signalled(there.changed(events.SignalAll(9))) == [("app", 9), ("broker", 9)]
    assert signalled(there.end(APP)) == []
    assert signalled(there.end(BROKER)) == []
    assert core.with_process(there.state) == []


def test_a_container_without_service_is_stopped_at_once() -> None:
    there = World().load(manifest(APP, service=AFTER_BROKER), manifest(BROKER))
    shut_down(there.run(BROKER).run(APP))
    assert signalled(there.changed(events.StopAll(SECOND))) == [("app", 15), ("broker", 15)]


def test_members_of_a_cycle_are_stopped_at_once() -> None:
    there = World().load(
        manifest(APP, service=AFTER_BROKER), manifest(BROKER, service={"after": ["app"]})
    )
    shut_down(there.run(BROKER).run(APP))
    assert signalled(there.changed(events.StopAll(SECOND))) == [("app", 15), ("broker", 15)]


def test_the_end_of_the_wait_or_back_off_in_the_shutdown() -> None:
    there = two().also(boot_start(BROKER), boot_start(APP))
    shut_down(there)
    assert there.entry(APP).state is ContainerState.INSTALLED
    assert there.entry(APP).wanted is Wanted.DOWN
    assert there.state.pending == {}
    assert there.changed(events.StartRequested(APP, cause=AUTOMATIC)) == (actions.Complete(APP),)


def test_a_stop_in_progress_keeps_the_shorter_time() -> None:
    there = World().load(manifest(APP, service={"stop": {"timeout": "60s"}})).run(APP)
    there.also(events.StopRequested(APP, 5 * SECOND))
    deadline = there.entry(APP).deadline
    shut_down(there)
    assert there.changed(events.StopAll(SECOND)) == ()
    assert there.entry(APP).deadline == deadline


def test_a_late_execution_is_stopped_too() -> None:
    there = shut_down(World().load(manifest(APP, service=NOTIFY)).launch(APP))
    there.also(events.StopAll(SECOND))
    assert signalled(there.changed(events.Executed(APP, 42))) == [("app", 15)]


# Cycles.


def install(there: World, one: Manifest) -> error.Error | None:
    after = () if one.service is None else one.service.after
    result = there.step(events.PackageVerified("one", one.container, 100, after))
    if isinstance(result, core.Refused):
        return result.error
    there.also(events.PackageStored("one", one))
    return None


def test_an_install_that_closes_a_cycle_is_refused() -> None:
    there = World().load(manifest(BROKER, service={"after": ["app"]}))
    text = "app:1.0.0 cannot be installed: service.after makes a cycle: app, broker, app"
    assert install(there, manifest(APP, service=AFTER_BROKER)) == error.Unexpected(text)
    assert install(there, manifest(APP, service={})) is None


def test_two_installs_at_a_time_do_not_close_a_cycle() -> None:
    there = World().also(events.PackageVerified("one", BROKER, 100, (Name("app"),)))
    refusal = there.refused(events.PackageVerified("two", APP, 100, (Name("broker"),)))
    assert isinstance(refusal, error.Unexpected)
    there.also(events.StoreFailed("one", BROKER))
    there.also(events.PackageVerified("two", APP, 100, (Name("broker"),)))
    there.also(events.PackageStored("two", manifest(APP, service=AFTER_BROKER)))
    assert there.state.storing == {}


def test_members_of_a_cycle_of_files_start_without_waiting() -> None:
    there = World().load(
        manifest(APP, service=AFTER_BROKER), manifest(BROKER, service={"after": ["app"], **NOTIFY})
    )
    sentence = "starts without waiting: service.after makes a cycle"
    for container, path in ((BROKER, "broker, app, broker"), (APP, "app, broker, app")):
        decided = there.changed(boot_start(container))
        assert warnings(decided) == [f"{container} {sentence}: {path}"]
        assert there.entry(container).state is ContainerState.STARTING


def test_who_comes_after_a_member_of_a_cycle_waits() -> None:
    outside = Container.parse("outside:1.0.0")
    there = World().load(
        manifest(APP, service=AFTER_BROKER), manifest(BROKER, service={"after": ["app"]})
    )
    there.load(manifest(outside, service={"after": ["app"]}))
    there.also(boot_start(APP), boot_start(outside))
    assert there.entry(outside).state is ContainerState.WAITING


NAMES = [Name(name) for name in "abcd"]


def graphs() -> Iterator[dict[Name, tuple[Name, ...]]]:
    """Yield all graphs of four names without edges of a name to itself: 4096."""
    edges = [(one, other) for one in NAMES for other in NAMES if one != other]
    for chosen in itertools.product((True, False), repeat=len(edges)):
        kept = [edge for edge, used in zip(edges, chosen, strict=True) if used]
        yield {name: tuple(other for one, other in kept if one == name) for name in NAMES}


def reachable(graph: dict[Name, tuple[Name, ...]], first: Name) -> set[Name]:
    """Return the names that a path of at least one edge leads to, by fixed-point iteration."""
    found = set(graph[first])
    while more := {other for one in found for other in graph[one]} - found:
        found |= more
    return found


def test_cycles_of_all_graphs_of_four_names() -> None:
    for graph in graphs():
        for name in NAMES:
            path = order.cycle(graph, name)
            assert (path is not None) is (name in reachable(graph, name))
            if path is not None:
                assert path[0] == path[-1] == name
                assert len(set(path)) == len(path) - 1
                assert all(b in graph[a] for a, b in itertools.pairwise(path))


def of_graph(graph: dict[Name, tuple[Name, ...]], **fields: object) -> World:
    there = World()
    for name, after in graph.items():
        service = {**NOTIFY, "after": list(after)}
        there.load(manifest(Container.parse(f"{name}:1.0.0"), service=service, **fields))
    return there


@pytest.mark.parametrize("part", range(8))
def test_every_graph_of_four_boots_in_order_and_ends_in_the_reverse_order(part: int) -> None:
    for graph in itertools.islice(graphs(), part, None, 8):
        cyclic = {name for name in graph if name in reachable(graph, name)}
        there = of_graph(graph, autostart="relaxed")
        started = _boot(there)
        place = {name: number for number, name in enumerate(started)}
        assert set(place) == set(graph)
        edges = [(one, other) for one in graph if one not in cyclic for other in graph[one]]
        assert all(place[other] < place[one] for one, other in edges)
        ended = _shut_down(there)
        place = {name: number for number, name in enumerate(ended)}
        assert set(place) == set(graph)
        assert all(place[one] < place[other] for one, other in edges)


def _boot(there: World) -> list[Name]:
    """Boot: each container becomes ready before the next one is served. Return the order."""
    requests = [boot_start(app) for app in boot.apps(there.state)]
    ready: list[Name] = []
    todo: list[Action] = []
    while requests or todo:
        if requests:
            todo += there.changed(requests.pop(0))
            continue
        match todo.pop(0):
            case actions.Mount(container):
                todo += there.changed(events.ImageMounted(container))
            case actions.Launch(container):
                there.also(events.Executed(container, 42))
                ready.append(container.name)
                todo += there.changed(events.Notified(container, READY))
            case actions.RequestStart(container, cause):
                requests.append(events.StartRequested(container, cause=cause))
    return ready


def _shut_down(there: World) -> list[Name]:
    """Shut down: each container ends when it is told to. Return the order of the signals."""
    shut_down(there)
    ended: list[Name] = []
    todo = list(there.changed(events.StopAll(SECOND)))
    while todo:
        action = todo.pop(0)
        if isinstance(action, actions.SendSignal):
            ended.append(action.container.name)
            todo += there.end(action.container, Exited(0))
    return ended


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES))), max_size=12))
def test_installs_never_close_a_cycle(packages: list[tuple[Name, set[Name]]]) -> None:
    there = World()
    for number, (name, after) in enumerate(packages):
        service = {"after": sorted(after - {name})}
        install(there, manifest(Container.parse(f"{name}:1.0.{number}"), service=service))
        assert order.in_cycles(there.state) == frozenset()
