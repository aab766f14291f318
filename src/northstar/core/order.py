"""`service.after`: the order of automatic starts, and the reverse order of the shutdown.

An order, not a requirement. An automatic start waits while a container of its `after` is about to
become ready, and for nothing else. Names are compared, so any version counts.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from northstar.api.status import ContainerState, Wanted
from northstar.core.actions import Log, RequestStart
from northstar.core.values import Cause, Draft, Entry, State
from northstar.model import Container, Name

ABOUT_TO_BE_READY: Final = frozenset(
    (ContainerState.WAITING, ContainerState.STARTING, ContainerState.RUNNING)
)
READY: Final = frozenset((ContainerState.READY, ContainerState.UNHEALTHY))

Graph = Mapping[Name, Iterable[Name]]
"""The names that each name comes after."""


def cycle(graph: Graph, name: Name) -> list[Name] | None:
    """Return a shortest cycle through a name, from this name to itself; None without one."""
    before: dict[Name, Name] = {}
    reached = [name]
    for one in reached:  # grows meanwhile: breadth first
        for other in graph.get(one, ()):
            if other == name:
                path = [name]
                while one != name:
                    path.append(one)
                    one = before[one]
                return [name, *reversed(path)]
            if other not in before:
                before[other] = one
                reached.append(other)
    return None


def graph_of(state: State) -> dict[Name, set[Name]]:
    """Return the order of all installed containers, and of those whose packages are being stored.

    The names of all versions are united: which version will run is not known.
    """
    graph: dict[Name, set[Name]] = {}
    for container, entry in state.containers.items():
        if entry.service.after:
            graph.setdefault(container.name, set()).update(entry.service.after)
    for container, after in state.storing.items():
        graph.setdefault(container.name, set()).update(after)
    return graph


def cycle_of_new(state: State, container: Container, after: Iterable[Name]) -> list[Name] | None:
    """Return the cycle that the installation of a container would close; None without one."""
    graph = graph_of(state)
    graph[container.name] = set(after)
    return cycle(graph, container.name)


def active(state: State, name: Name) -> Entry | None:
    """Return the version of a name that starts, runs, waits or is in back-off."""
    container = state.running.get(name) or state.pending.get(name)
    return None if container is None else state.containers[container]


def in_cycles(state: State) -> frozenset[Name]:
    """Return the names in cycles: their `after` is ignored.

    An install cannot close a cycle, but package files can: they must not keep a device from
    booting.
    """
    graph = graph_of(state)
    if not graph:
        return frozenset()
    from graphlib import CycleError, TopologicalSorter  # few devices need it

    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return frozenset(name for name in graph if cycle(graph, name) is not None)
    return frozenset()


def waits_for(state: State, entry: Entry) -> list[Name]:
    """Return the names for which an automatic start of a container waits now."""
    names = _about_to_be_ready(state, entry)
    return [] if names and entry.container.name in in_cycles(state) else names


def _about_to_be_ready(state: State, entry: Entry) -> list[Name]:
    found = ((name, active(state, name)) for name in entry.service.after)
    return [name for name, one in found if one is not None and one.state in ABOUT_TO_BE_READY]


def warnings(state: State, entry: Entry) -> list[str]:
    """Return a sentence for each container of `after` that an automatic start ignores."""
    after = entry.service.after
    if not after:
        return []
    found = cycle(graph_of(state), entry.container.name)
    if found is not None:
        path = ", ".join(found)
        return [f"{entry.container} starts without waiting: service.after makes a cycle: {path}"]
    return [
        f"{entry.container} does not wait for {name}: {reason}"
        for name in after
        if (reason := _absence(state, name)) is not None
    ]


def _absence(state: State, name: Name) -> str | None:
    """Return why nothing waits for a name; None if it is ready, or about to be."""
    one = active(state, name)
    if one is not None and one.state in ABOUT_TO_BE_READY | READY:
        return None
    if one is None:
        versions = [entry for c, entry in state.containers.items() if c.name == name]
        if not versions:
            return "it is not installed"
        failed = [e for e in versions if e.state is ContainerState.FAILED]
        if not failed:
            return "it is not wanted"
        one = failed[0]
    elif one.wanted is Wanted.DOWN:
        return "it is not wanted"
    why = f" ({one.reason})" if one.reason else ""
    return f"its state is {one.state.value}{why}"


def release(draft: Draft) -> None:
    """Request the start of each container that need not wait any more."""
    for container in draft.state.pending.values():
        entry = draft.state.containers[container]
        if entry.state is not ContainerState.WAITING or entry.due:
            continue
        # It is in no cycle, or it would not wait.
        if not _about_to_be_ready(draft.state, entry):
            request_start(draft, container, Cause.AUTOMATIC)


def request_start(draft: Draft, container: Container, cause: Cause) -> None:
    """Request the start of a container that waits or is in back-off."""
    draft.change(container, due=True)
    draft.act(RequestStart(container, cause))


def log_warnings(draft: Draft, entry: Entry) -> None:
    """Log the containers of `after` that an automatic start ignores."""
    for sentence in warnings(draft.state, entry):
        draft.act(Log(logging.WARNING, sentence))


def blocked(state: State) -> frozenset[Name]:
    """Return the names that a container with a process comes after: they end after it."""
    entries = [state.containers[container] for container in state.running.values()]
    running = [entry for entry in entries if entry.has_process and entry.service.after]
    cyclic = in_cycles(state) if running else frozenset()
    after = (entry.service.after for entry in running if entry.container.name not in cyclic)
    return frozenset(itertools.chain.from_iterable(after))


def sorted_by_order(state: State, containers: Iterable[Container]) -> list[Container]:
    """Sort containers, at most one version of each name: each comes after those of its `after`."""
    given = {container.name: container for container in containers}
    if not any(state.containers[container].service.after for container in given.values()):
        return list(given.values())
    from graphlib import TopologicalSorter

    cyclic = in_cycles(state)
    graph = {
        name: () if name in cyclic else state.containers[container].service.after
        for name, container in given.items()
    }
    return [given[name] for name in TopologicalSorter(graph).static_order() if name in given]
