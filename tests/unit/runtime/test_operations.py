"""Answers of which parts are kept encoded: they are those that would be encoded now."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from northstar import api, core
from northstar.api import request, response
from northstar.api.error import InvalidContainer
from northstar.api.status import ContainerState
from northstar.core import Image, events
from northstar.manifest import Command, Manifest
from northstar.model import Container
from northstar.runtime.console.dispatch import Caller, Dispatcher
from northstar.runtime.console.peer import Peer
from northstar.runtime.console.tokens import Tokens
from northstar.runtime.executor import Executor
from northstar.runtime.operations import ContainerOperations
from tests.unit.core.worlds import World, manifest

NAMES = tuple(map(Container.parse, ("app:1.0.0", "app:2.0.0", "lib:1.0.0")))
STATISTICS: dict[str, Any] = {"cpu": {"stat": "nr_periods 0\n"}, "pids": {"current": 1, "max": 9}}


class Executors:
    """What the operations read of an executor.

    Attributes:
        gone: images that another program has unmounted.
    """

    def __init__(self) -> None:
        self.state = core.State()
        self.running: dict[Container, Any] = {}
        self.gone: set[Container] = set()
        self.statistics = SimpleNamespace(read=lambda _: STATISTICS)

    def is_mounted(self, container: Container) -> bool:
        return container not in self.gone

    def put(self, entry: core.Entry) -> None:
        containers = {**self.state.containers, entry.container: entry}
        self.state = core.State(containers=containers)

    def remove(self, container: Container) -> None:
        containers = dict(self.state.containers)
        containers.pop(container, None)
        self.state = core.State(containers=containers)


MANIFESTS: dict[Container, tuple[Manifest, ...]] = {
    container: (
        manifest(container),
        manifest(container, service={"restart": {"policy": "always"}}),
        manifest(container, init=None),
    )
    for container in NAMES
}

Change = Callable[[Executors], None]


def _install(container: Container, kind: int, repository: str) -> Change:
    entry = core.Entry(container, MANIFESTS[container][kind], repository, since=0)
    return lambda executor: executor.put(entry)


def _set(container: Container, image: Image, running: bool) -> Change:
    def change(executor: Executors) -> None:
        entry = executor.state.containers.get(container)
        if entry is None:
            return
        run = core.Run(Command("/bin/app", (), {}), {}, executed=1) if running else None
        state = ContainerState.RUNNING if running else ContainerState.INSTALLED
        executor.running[container] = SimpleNamespace(pid=7, cgroup=None)
        executor.put(replace(entry, image=image, run=run, state=state))

    return change


def _gone(container: Container, gone: bool) -> Change:
    def change(executor: Executors) -> None:
        (executor.gone.add if gone else executor.gone.discard)(container)

    return change


containers = st.sampled_from(NAMES)
changes = st.one_of(
    st.builds(_install, containers, st.integers(0, 2), st.sampled_from(("one", "two"))),
    st.builds(lambda container: lambda executor: executor.remove(container), containers),
    st.builds(_set, containers, st.sampled_from(Image), st.booleans()),
    st.builds(_gone, containers, st.booleans()),
)


def _inspected(executor: Executors, container: Container, extended: bool) -> response.Inspect:
    """Return the answer, made anew."""
    entry = executor.state.containers.get(container)
    if entry is None:
        return response.Inspect(response.Failed(container, InvalidContainer(container)))
    data = response.ContainerData(
        manifest=entry.manifest.to_builtins(service=extended),
        repository=entry.repository,
        mounted=entry.image is Image.MOUNTED and container not in executor.gone,
        process=None if entry.run is None else response.Process(7, 41, STATISTICS),
    )
    return response.Inspect(response.InspectOk(container, data))


def _operations(executor: Executors) -> ContainerOperations:
    unused = cast("Any", None)
    return ContainerOperations(cast("Executor", executor), {}, unused, unused, lambda: None)


@given(st.lists(st.tuples(changes, st.sets(st.sampled_from((*NAMES, "list"))))))
def test_kept_answers_are_those_that_would_be_encoded_now(steps: list[Any]) -> None:
    executor = Executors()
    operations = _operations(executor)

    async def answers() -> Dispatcher:
        return Dispatcher(operations, Tokens())

    dispatcher = asyncio.run(answers())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic_ns", lambda: 42)
        for change, asked in steps:
            change(executor)
            # What nobody has requested is kept from before this change.
            for one, extended in itertools.product(asked, (False, True)):
                expected: response.Response
                if isinstance(one, Container):
                    wanted: request.Request = request.Inspect(one)
                    expected = _inspected(executor, one, extended)
                else:
                    wanted = request.List()
                    expected = response.List(tuple(sorted(executor.state.containers)))
                found = dispatcher.prepared[extended](api.encode(wanted))
                assert found is not None
                assert found.request == wanted
                line = found.handler(found.request, Caller(Peer(None), 1.0, extended))
                assert line == api.encode(expected)
    for kept in operations._answers:
        assert len(kept) <= len(NAMES)


def test_the_answer_of_a_removed_container_is_not_kept() -> None:
    executor = Executors()
    operations = _operations(executor)
    for container in NAMES[:2]:
        _install(container, 0, "one")(executor)
        operations.inspect(container)
    executor.remove(NAMES[0])
    _install(NAMES[2], 0, "one")(executor)
    operations.inspect(NAMES[2])
    assert set(operations._answers[True]) == set(NAMES[1:])


def test_the_list_is_the_same_while_none_is_added_or_removed() -> None:
    executor = Executors()
    operations = _operations(executor)
    assert operations.list() == ()
    for container in reversed(NAMES):
        _install(container, 0, "one")(executor)
    listed = operations.list()
    assert listed == NAMES
    _set(NAMES[0], Image.MOUNTED, running=True)(executor)
    assert operations.list() is listed
    executor.remove(NAMES[0])
    assert operations.list() == NAMES[1:]


def test_a_mapping_of_the_registry_keeps_its_containers() -> None:
    """The list is kept by the identity of the mapping."""
    world = World()
    seen = [world.state.containers]
    for container in NAMES[:2]:
        world.load(MANIFESTS[container][0])
        seen.append(world.state.containers)
    world.changed(events.UninstallRequested(NAMES[0], wipe=False))
    world.changed(events.PackageRemoved(NAMES[0]))
    seen.append(world.state.containers)
    assert [set(one) for one in seen] == [set(), {NAMES[0]}, set(NAMES[:2]), {NAMES[1]}]


_TEXT = functools.partial(st.text, max_size=8)
_JSON = st.dictionaries(
    _TEXT(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | _TEXT(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@given(
    _JSON,
    _TEXT(),
    st.booleans(),
    st.none() | st.builds(response.Process, st.integers(0, 2**32 - 1), st.integers(0, 9), _JSON),
)
def test_an_inspect_answer_is_that_of_the_codec(
    content: Any, repository: str, mounted: bool, process: response.Process | None
) -> None:
    answer = api.InspectAnswer(NAMES[0], content, repository)
    data = response.ContainerData(content, repository, mounted, process)
    expected = api.encode(response.Inspect(response.InspectOk(NAMES[0], data)))
    for _ in range(2):
        assert answer.line(mounted=mounted, process=process) == expected
