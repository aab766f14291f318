# ruff: noqa: N802 - handlers have the names of the actions
"""A device that executes the actions of the core in memory, and whose power may fail at any moment.

It has a disk, which survives, and containers with a given behaviour. Everything else is the core's
decision. A moment is the execution of one action.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from northstar import core
from northstar.api import error
from northstar.core import actions, boot, events, update
from northstar.core.events import Event
from northstar.core.update_values import Record
from northstar.manifest import Manifest
from northstar.model import Container, Exited, ExitStatus, Signalled, Version
from northstar.model.notify import NotifyMessage

REPOSITORY = "fs"
SECOND = 10**9
HORIZON = 1000 * SECOND
"""Time after which everything must have come to an end."""


@dataclass
class Disk:
    """What survives a power cut.

    Attributes:
        files: the containers whose packages are stored.
        record: what the state file contains of the update.
        floor: the newest version that was ever committed.
        data: the version that has written the persistent data last.
        copy: the same of the copy, if there is one.
        tries: the starts of the new version.
    """

    files: set[Container]
    record: Record | None = None
    floor: Version | None = None
    data: Container | None = None
    copy: Container | None = None
    floors: list[Version] = field(default_factory=list)


class PowerCut(Exception):  # noqa: N818 - it is no error
    """The power fails before an action is executed."""


@dataclass(frozen=True)
class Behaviour:
    """What a version does.

    Attributes:
        launch_fails: its program cannot be executed.
        mount_fails: its image is damaged.
        ends: with this status, after so many ns; with None it runs.
        says: a message on its notify socket, after so many ns.
    """

    launch_fails: bool = False
    mount_fails: bool = False
    ends: tuple[ExitStatus, int] | None = None
    says: tuple[NotifyMessage, int] | None = None


class Device:
    """One boot of the device, up to a power cut.

    Attributes:
        state: the registry.
        answers: what the clients of updates were answered.
        moments: number of executed actions.
    """

    def __init__(
        self,
        disk: Disk,
        manifests: Mapping[Container, Manifest],
        behaviours: Mapping[Container, Behaviour],
        *,
        cut: int | None = None,
        fails: Callable[[str, int], bool] = lambda _what, _count: False,
        check: Callable[[Device, Container], None] = lambda _device, _container: None,
    ) -> None:
        self.disk = disk
        self._manifests = manifests
        self._behaviours = behaviours
        self._cut = cut
        self._fails = fails
        self._check = check
        self._counts: dict[str, int] = {}
        self._queue: deque[Any] = deque()
        self._timers: dict[tuple[str, object], tuple[int, Callable[[], None]]] = {}
        self._requests: dict[Container, deque[Event]] = {}
        self.answers: list[error.Error | None] = []
        self.moments = 0
        self.now = 10**12
        self.state = core.State(repositories={REPOSITORY: core.Repository()})

    # Events and actions.

    def give(self, event: Event) -> error.Error | None:
        """Give an event to the core; return a refusal."""
        result = core.step(self.state, event, self.now)
        if isinstance(result, core.Refused):
            return result.error
        self.state = result.state
        self._queue.extend(result.actions)
        return None

    def request(self, event: Any) -> None:
        """Give a request on a container, after earlier ones."""
        container = event.container
        if container in self._requests:
            self._requests[container].append(event)
            return
        self._requests[container] = deque()
        if self.give(event) is not None:
            self._completed(container)

    def _completed(self, container: Container) -> None:
        waiting = self._requests.pop(container, deque())
        if waiting:
            first = waiting.popleft()
            self.request(first)
            self._requests.setdefault(container, deque()).extend(waiting)

    def pump(self) -> None:
        """Execute actions until there are none."""
        while self._queue:
            if self.moments == self._cut:
                raise PowerCut
            self.moments += 1
            action = self._queue.popleft()
            handler = getattr(self, f"_on_{type(action).__name__}", None)
            if handler is not None:
                handler(action)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Execute actions and reach times, until a condition, or until nothing is left to do."""
        end = self.now + HORIZON
        self.pump()
        while self._timers and not until():
            key = min(self._timers, key=lambda key: (self._timers[key][0], str(key)))
            when, act = self._timers.pop(key)
            if when > end:
                return
            self.now = max(self.now, when)
            act()
            self.pump()

    def _after(self, key: tuple[str, object], when: int, act: Callable[[], None]) -> None:
        self._timers[key] = when, act

    def _failing(self, what: str) -> bool:
        count = self._counts[what] = self._counts.get(what, 0) + 1
        return self._fails(what, count)

    # The boot.

    def boot(self) -> None:
        """Load what is stored, go on with the update, and start the apps."""
        for container in sorted(self.disk.files):
            self.give(events.PackageLoaded(REPOSITORY, self._manifests[container], 100))
        names = {c.name for c in self._manifests}
        record, floor = self.disk.record, self.disk.floor
        records = {} if record is None else {record.new.name: record}
        floors = {} if floor is None else dict.fromkeys(names, floor)
        if records or floors:
            self.give(events.RecordsLoaded(records, floors))
        self.pump()
        assert not update.unsettled(self.state)
        for app in boot.apps(self.state):
            self.request(events.StartRequested(app, cause=update.boot_cause(self.state, app)))
        self.give(events.BootOrdered())
        self.pump()

    # What a container does.

    @property
    def running(self) -> set[Container]:
        """The containers that run now."""
        return {c for c, e in self.state.containers.items() if e.has_process}

    def _on_Mount(self, action: actions.Mount) -> None:
        container = action.container
        if self._behaviours[container].mount_fails or self._failing("mount"):
            self.give(events.MountFailed(container, "the image is damaged"))
        else:
            self.give(events.ImageMounted(container))

    def _on_Umount(self, action: actions.Umount) -> None:
        if self._failing("umount"):
            self.give(events.UmountFailed(action.container, "busy"))
        else:
            self.give(events.ImageUnmounted(action.container))

    def _on_Launch(self, action: actions.Launch) -> None:
        container = action.container
        behaviour = self._behaviours[container]
        if behaviour.launch_fails or self._failing("launch"):
            self.give(events.StartFailed(container, "no such file"))
            return
        self._check(self, container)
        self.disk.data = max(container, self.disk.data or container)
        self.give(events.Executed(container, 42))
        if behaviour.ends is not None:
            status, after = behaviour.ends
            self._after(
                ("end", container), self.now + after, lambda: self._ended(container, status)
            )
        if behaviour.says is not None:
            message, after = behaviour.says
            said = events.Notified(container, message)
            self._after(("says", container), self.now + after, lambda: self._said(said))

    def _said(self, said: Event) -> None:
        self.give(said)

    def _ended(self, container: Container, status: ExitStatus) -> None:
        self._timers.pop(("end", container), None)
        self._timers.pop(("says", container), None)
        self.give(events.ProcessExited(container, status))

    def _on_SendSignal(self, action: actions.SendSignal) -> None:
        self.give(events.SignalSent(action.container))
        self._ended(action.container, Signalled(action.number))

    def _on_Release(self, action: actions.Release) -> None:
        self.give(events.Released(action.container))

    def _on_Complete(self, action: actions.Complete) -> None:
        self._completed(action.container)

    def _on_Defer(self, action: actions.Defer) -> None:
        self._completed(action.container)

    def _on_RequestStart(self, action: actions.RequestStart) -> None:
        self.request(events.StartRequested(action.container, cause=action.cause))

    def _on_RequestUninstall(self, action: actions.RequestUninstall) -> None:
        self.request(events.UninstallRequested(action.container, updating=True))

    def _on_SetDeadline(self, action: actions.SetDeadline) -> None:
        key = "state", action.container
        self._timers.pop(key, None)
        if action.when is not None:
            reached = events.DeadlineReached(action.container)
            self._after(key, action.when, lambda: self._said(reached))

    # The disk.

    def _on_RemovePackage(self, action: actions.RemovePackage) -> None:
        container = action.container
        if self._failing("remove"):
            self.give(events.RemovalFailed(container, "input/output error"))
            return
        self.disk.files.discard(container)
        self.give(events.PackageRemoved(container))

    def _on_StorePackage(self, action: actions.StorePackage) -> None:
        container = action.container
        if self._failing("store"):
            self.give(events.StoreFailed(REPOSITORY, container, "no space left on device"))
            return
        self.disk.files.add(container)
        self.give(events.PackageStored(REPOSITORY, self._manifests[container]))

    def _on_WriteRecord(self, action: actions.WriteRecord) -> None:
        if self._failing("record"):
            self.give(events.RecordFailed(action.name, "input/output error"))
            return
        self.disk.record = action.record
        if action.floor is not None:
            self.disk.floor = action.floor
            self.disk.floors.append(action.floor)
        self.give(events.RecordWritten(action.name))

    def _on_CopyData(self, action: actions.CopyData) -> None:
        if self._failing("copy"):
            self.give(events.DataStepEnded(action.name, "no space left on device"))
            return
        self.disk.copy = self.disk.data
        self.give(events.DataStepEnded(action.name))

    def _on_RestoreData(self, action: actions.RestoreData) -> None:
        if self._failing("restore"):
            self.give(events.DataStepEnded(action.name, "input/output error"))
            return
        if self.disk.copy is not None:
            self.disk.data, self.disk.copy = self.disk.copy, None
        self.give(events.DataStepEnded(action.name))

    def _on_DiscardData(self, action: actions.DiscardData) -> None:
        if self._failing("discard"):
            self.give(events.DataStepEnded(action.name, "input/output error"))
            return
        self.disk.copy = None
        self.give(events.DataStepEnded(action.name))

    def _on_SetUpdateTimer(self, action: actions.SetUpdateTimer) -> None:
        reached = events.UpdateTimeReached(action.name)
        self._after(("update", action.name), action.when, lambda: self._said(reached))

    def _on_CompleteUpdate(self, action: actions.CompleteUpdate) -> None:
        self.answers.append(action.error)


def copied(disk: Disk) -> Disk:
    return replace(disk, files=set(disk.files), floors=list(disk.floors))


OK = Exited(0)
