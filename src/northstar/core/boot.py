"""The images and apps that the runtime mounts and starts at boot."""

from __future__ import annotations

from northstar.core import order, update
from northstar.core.choice import newest_match
from northstar.core.update_values import active
from northstar.core.values import Entry, State
from northstar.manifest import Resource
from northstar.model import Container, Name


def images(state: State) -> list[Container]:
    """Return the images to mount at boot: `mount_on_start`, autostart apps and their resources.

    They are mounted in parallel, before any start.
    """
    early = [
        c for c, e in state.containers.items() if _mounted_on_start(state, e) and _may_run(state, c)
    ]
    for app in apps(state):
        early.append(app)
        for mount in state.containers[app].manifest.mounts.values():
            if isinstance(mount, Resource):
                match = newest_match(mount, state.containers)
                early += [] if match is None else [match]
    return list(dict.fromkeys(early))


def _mounted_on_start(state: State, entry: Entry) -> bool:
    return state.repositories[entry.repository].mount_on_start


def apps(state: State) -> list[Container]:
    """Return the apps to start at boot: each after those of its `service.after`.

    Of several versions with `autostart` the newest. During an update its active version, and one
    that the update starts, with `autostart` or without.
    """
    newest: dict[Name, Container] = {}
    for container in (*_with_autostart(state), *update.starting(state)):
        newest[container.name] = max(container, newest.get(container.name, container))
    return order.sorted_by_order(state, newest.values())


def _with_autostart(state: State) -> list[Container]:
    return [
        c
        for c, e in state.containers.items()
        if e.manifest.autostart is not None and _may_run(state, c)
    ]


def _may_run(state: State, container: Container) -> bool:
    found = state.updates.get(container.name)
    return found is None or active(found) == container


def not_started(state: State) -> list[tuple[Container, Container]]:
    """Return the apps with `autostart` that are not started, each with its newer version."""
    started = {container.name: container for container in apps(state)}
    return [(c, started[c.name]) for c in _with_autostart(state) if c not in started.values()]
