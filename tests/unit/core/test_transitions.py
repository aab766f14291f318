"""The table of transitions is equal to what `step` does, and so are the docs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from northstar import core
from northstar.api.status import ContainerState
from northstar.core import actions, events
from northstar.core.events import Event
from northstar.core.transition_table import TRANSITIONS
from northstar.model import Exited, InternalError
from tests.unit.core import test_service_table, test_table
from tests.unit.core.test_service_table import BROKER, SERVICE, idle, mounted, waiting
from tests.unit.core.worlds import (
    APP,
    FAILED,
    LIB,
    NEWER,
    NOTIFY,
    OTHER,
    SECOND,
    World,
    manifest,
    resource,
    uses,
)
from website.diagrams import DIRECTORY, FILES

Change = tuple[ContainerState, ContainerState, type]

PAGE = Path(__file__).parents[3] / "docs/supervision.md"


def changes(before: core.State, event: Event, result: core.Changed) -> Iterator[Change]:
    """Yield the changes of states in a step; a container may enter several states."""
    last: dict[object, ContainerState] = {}
    for action in result.actions:
        if isinstance(action, actions.PublishState):
            entry = action.entry
            old = last.get(entry.container) or before.containers[entry.container].state
            last[entry.container] = entry.state
            if old is not entry.state:
                yield old, entry.state, type(event)
    for container, entry in result.state.containers.items():
        if container in before.containers:
            assert entry.state is last.get(container, before.containers[container].state)


def give(there: World, event: Event) -> set[Change]:
    before = there.state
    try:
        result = there.step(event)
    except InternalError:
        return set()
    return set() if isinstance(result, core.Refused) else set(changes(before, event, result))


def by_the_tables() -> set[Change]:
    """Return the changes of all events in all states of the two tables."""
    found = set()
    for situation in test_table.TABLE:
        for event in test_table.EVENTS.values():
            found |= give(situation(), event)
    for situation in test_service_table.TABLE:
        for name, event in test_service_table.EVENTS.items():
            there = situation()
            deadline = there.entry(APP).deadline
            if name == "deadline" and deadline is not None:
                there.now = deadline - SECOND
            found |= give(there, event)
    return found


# Changes that need more than one container, or a rare order of events.


def with_a_resource() -> World:
    there = World().load(manifest(APP, service=SERVICE, mounts=uses("lib")), resource(LIB))
    return there.load(manifest(NEWER), manifest(BROKER, service=NOTIFY))


def unmounting_its_resource(cause: core.Cause) -> World:
    there = with_a_resource().also(events.MountRequested(LIB), events.ImageMounted(LIB))
    there.also(events.UmountRequested(LIB), events.StartRequested(APP, cause=cause))
    return there.also(events.MountFailed(APP, "why"))


def mounting(cause: core.Cause) -> World:
    return with_a_resource().also(events.StartRequested(APP, cause=cause))


def failed_before_its_boot() -> World:
    there = mounted().also(events.StartRequested(APP), events.StartFailed(APP, "why"))
    return there.also(events.StartRequested(BROKER))


def mounted_with(cause: core.Cause) -> World:
    return mounting(cause).also(events.ImageMounted(LIB), events.ImageMounted(APP))


FAILING_STARTS: tuple[tuple[Callable[[core.Cause], World], Event], ...] = (
    (unmounting_its_resource, events.ImageUnmounted(LIB)),
    (unmounting_its_resource, events.UmountFailed(LIB, "why")),
    (lambda cause: mounting(cause).also(events.MountFailed(APP, "why")), events.ImageMounted(LIB)),
    (lambda cause: mounting(cause).also(events.ImageMounted(LIB)), events.MountFailed(APP, "why")),
    (mounted_with, events.DirectoryMissing(APP, "/lib")),
    (mounted_with, events.StartFailed(APP, "why")),
)


def rare() -> Iterator[tuple[World, Event]]:
    yield idle().also(events.StartRequested(BROKER)), test_service_table.BOOT
    yield failed_before_its_boot(), test_service_table.BOOT
    never = {"restart": {"policy": "never"}}
    missing = World().load(manifest(APP, service=never, mounts=uses("lib")))
    yield missing, test_service_table.BOOT
    for make, event in FAILING_STARTS:
        for cause in (core.Cause.BOOT, core.Cause.CLIENT):
            yield make(cause), event
            yield make(cause).also(events.ShutdownBegan()), event
    for situation in (waiting, test_service_table.backing_off):
        yield situation(), events.RestartRequested(NEWER)
    yield from _turns()
    yield from _ends()


def _ends() -> Iterator[tuple[World, Event]]:
    """Yield the ends of runs that were not ready, or were stopped as faulty."""
    never = {"restart": {"policy": "never"}}
    for fields in (never, SERVICE):
        for status in (Exited(0), FAILED):
            there = World().load(manifest(APP, service={**NOTIFY, **fields})).run(APP)
            yield there.also(events.ProcessExited(APP, status)), events.Released(APP)
        there = World().load(manifest(APP, service={**NOTIFY, **fields})).run(APP)
        there.at_deadline(APP)
        yield there.also(events.ProcessExited(APP, FAILED)), events.Released(APP)
    for policy, status in (("never", FAILED), ("on-failure", Exited(0))):
        there = shown_as_unhealthy({"restart": {"policy": policy}})
        yield there.also(events.ProcessExited(APP, status)), events.Released(APP)


def shown_as_unhealthy(service: dict[str, object]) -> World:
    health = {"probe": {"exec": ["/bin/check"]}, "failures": 1, "action": "none"}
    there = World().load(
        manifest(APP, service={**service, "health": health}),
        manifest(OTHER, service={"after": ["app"]}),
    )
    there.run(APP).at_probe(APP)
    return there.also(events.ProbeFailed(APP, "why"))


def _turns() -> Iterator[tuple[World, Event]]:
    """Yield ends of a container in the shutdown after which it is the turn of another one."""
    for ready in (True, False):
        service = {} if ready else NOTIFY
        there = World().load(
            manifest(BROKER, service=service), manifest(APP, service={"after": ["broker"]})
        )
        there.run(BROKER).run(APP).also(events.ShutdownBegan(), events.StopAll(SECOND))
        yield there.also(events.ProcessExited(APP, Exited(0))), events.Released(APP)
    there = shown_as_unhealthy({}).run(OTHER)
    there.also(events.ShutdownBegan(), events.StopAll(SECOND))
    yield there.also(events.ProcessExited(OTHER, Exited(0))), events.Released(OTHER)


def observed() -> set[Change]:
    found = by_the_tables()
    for there, event in rare():
        found |= give(there, event)
    return found


def test_the_table_contains_each_change_and_no_other() -> None:
    table = {(row.before, row.after, event) for row in TRANSITIONS for event in row.events}
    found = observed()
    assert found - table == set()
    assert table - found == set()


def test_the_table_has_each_change_once() -> None:
    assert len({(row.before, row.after) for row in TRANSITIONS}) == len(TRANSITIONS)


def test_each_state_is_entered_and_left() -> None:
    assert {row.before for row in TRANSITIONS} == set(ContainerState)
    assert {row.after for row in TRANSITIONS} | {ContainerState.REMOVING} == set(ContainerState)


def rows() -> str:
    """Return the rows of the table in docs/supervision.md."""
    lines = ["| from | to | causes |", "|---|---|---|", "| | installed | install; boot |"]
    lines += [f"| {r.before.value} | {r.after.value} | {r.label} |" for r in TRANSITIONS]
    lines.append("| removing | | uninstalled |")
    return "\n".join(lines)


def test_the_docs_have_the_table() -> None:
    text = PAGE.read_text()
    (found,) = re.findall(r"^\| from \|.*?(?=\n\n)", text, re.DOTALL | re.MULTILINE)
    assert found == rows()


def test_the_diagram_in_the_docs_is_that_of_the_table() -> None:
    """It is drawn with all changes of the table and no other, see website/diagrams.py."""
    for name, draw in FILES.items():
        drawn = (DIRECTORY / name).read_text() == draw()
        assert drawn, f"draw {name} again: python -m website.diagrams"
    assert "](diagrams/states.svg)" in PAGE.read_text()


def test_idle_containers_need_no_deadline() -> None:
    assert idle().entry(APP).deadline is None
