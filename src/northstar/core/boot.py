"""The images and apps that the runtime mounts and starts at boot."""

from __future__ import annotations

from northstar.core.choice import newest_match
from northstar.core.values import Entry, State
from northstar.manifest import Resource
from northstar.model import Container


def images(state: State) -> list[Container]:
    """Return the images to mount at boot: `mount_on_start`, autostart apps and their resources.

    They are mounted in parallel, before any start.
    """
    early = [c for c, e in state.containers.items() if _mounted_on_start(state, e)]
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
    """Return the apps to start at boot."""
    return [c for c, e in state.containers.items() if e.manifest.autostart is not None]
