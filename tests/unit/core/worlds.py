"""Registries to test `step` with."""

from __future__ import annotations

import json
from typing import Any

from northstar import core
from northstar.core import events
from northstar.core.actions import Action, Log, RequestStart
from northstar.core.events import Event
from northstar.manifest import Manifest, loads
from northstar.model import Container, Exited, ExitStatus
from northstar.model.notify import NotifyMessage

FAILED = Exited(1)
NOW = 1_000_000_000

APP = Container.parse("app:1.0.0")
NEWER = Container.parse("app:2.0.0")
OTHER = Container.parse("other:1.0.0")
LIB = Container.parse("lib:1.0.0")
LIB2 = Container.parse("lib:2.0.0")


def manifest(container: Container, **fields: object) -> Manifest:
    """Return the manifest of an app, or with `init=None` of a resource."""
    names = {"name": container.name, "version": str(container.version), "uid": 1000, "gid": 1000}
    fields.setdefault("init", "/bin/app")
    given = {key: value for key, value in fields.items() if value is not None}
    return loads(json.dumps({**names, **given}))


def resource(container: Container) -> Manifest:
    return manifest(container, init=None)


def uses(*names: str, version: str = ">=1") -> dict[str, object]:
    """Return the mounts of an app that uses the newest of each of these resources."""
    return {f"/{n}": {"type": "resource", "name": n, "version": version, "dir": "/"} for n in names}


SECOND = 1_000_000_000

ON_FAILURE: dict[str, Any] = {"restart": {"policy": "on-failure"}}
ALWAYS: dict[str, Any] = {"restart": {"policy": "always"}}
NOTIFY: dict[str, Any] = {"notify": "/run/notify", "ready": {"probe": "notify", "timeout": "60s"}}
READY = NotifyMessage(ready=True)


class World:
    """A registry to which a test gives events, one after the other."""

    def __init__(self, state: core.State | None = None) -> None:
        self.state = state or core.State(
            repositories={"one": core.Repository(), "two": core.Repository()}
        )
        self.now = NOW

    def load(self, *manifests: Manifest, repository: str = "one", size: int = 100) -> World:
        for one in manifests:
            self.changed(events.PackageLoaded(repository, one, size))
        return self

    def step(self, event: Event) -> core.Changed | core.Refused:
        """Give an event, and adopt the new state. The clock advances by one second."""
        self.now += SECOND
        result = core.step(self.state, event, self.now)
        if isinstance(result, core.Changed):
            self.state = result.state
        return result

    def at_deadline(self, container: Container) -> tuple[Action, ...]:
        """Advance to the deadline of a container, and report it."""
        deadline = self.entry(container).deadline
        assert deadline is not None
        self.now = deadline - SECOND
        return self.changed(events.DeadlineReached(container))

    def at_probe(self, container: Container) -> tuple[Action, ...]:
        """Advance to the beginning of the next probe of a container, and report it."""
        begins = self.entry(container).next_probe
        assert begins is not None
        self.now = begins - SECOND
        return self.changed(events.DeadlineReached(container))

    def end(self, container: Container, status: ExitStatus = FAILED) -> tuple[Action, ...]:
        """Report the exit of a container, and the end of its clean-up."""
        self.changed(events.ProcessExited(container, status))
        return self.changed(events.Released(container))

    def changed(self, *several: Event) -> tuple[Action, ...]:
        """Give events that must not be refused, and return the actions of the last one."""
        actions: tuple[Action, ...] = ()
        for event in several:
            result = self.step(event)
            assert isinstance(result, core.Changed), result
            actions = result.actions
        # They accompany each change of a state, and have tests of their own.
        return tuple(a for a in actions if not isinstance(a, core.actions.PublishState))

    def refused(self, event: Event) -> object:
        """Give an event that must be refused, and return the error."""
        result = self.step(event)
        assert isinstance(result, core.Refused), result
        return result.error

    def entry(self, container: Container) -> core.Entry:
        return self.state.containers[container]

    def run(self, container: Container) -> World:
        """Bring a container from installed to running."""
        return self.launch(container).also(events.Executed(container, 42))

    def launch(self, container: Container) -> World:
        """Start a container, and mount all images that it needs."""
        actions = self.changed(events.StartRequested(container))
        for action in actions:
            if isinstance(action, core.actions.Mount):
                self.changed(events.ImageMounted(action.container))
        return self

    def also(self, *several: Event) -> World:
        self.changed(*several)
        return self


def world() -> World:
    """Return the usual registry: an app in two versions, another app, two resources."""
    return World().load(
        manifest(APP, mounts=uses("lib")),
        manifest(NEWER),
        manifest(OTHER),
        resource(LIB),
        resource(LIB2),
    )


# Supervised containers.

AUTOMATIC = events.StartRequested(APP, cause=core.Cause.AUTOMATIC)


def supervised(service: dict[str, Any], **fields: Any) -> World:
    """Return a registry with one app that has this section."""
    return World().load(manifest(APP, service=service, **fields))


def state(there: World, container: Container = APP) -> tuple[str, str]:
    entry = there.entry(container)
    return entry.state.value, entry.wanted.value


def reason(there: World) -> str:
    return there.entry(APP).reason


def restart(there: World, status: ExitStatus = FAILED) -> int:
    """End the run, and let the runtime start the next one; return the delay in ns."""
    there.end(APP, status)
    begun = there.now
    assert there.at_deadline(APP)[-1] == RequestStart(APP, core.Cause.AUTOMATIC)
    delay = there.now - begun
    there.also(AUTOMATIC, events.Executed(APP, 42))
    return delay


def lines(decided: tuple[Action, ...]) -> list[str]:
    """Return the lines of the log among actions."""
    return [one.message for one in decided if isinstance(one, Log)]
