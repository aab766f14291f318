"""The registry: the state of all containers, images and repositories.

All values are immutable. `step` returns a changed copy of the registry. Mappings are replaced as a
whole: a device has some dozens of containers, and copying a mapping of 500 takes some microseconds.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from northstar.api import error
from northstar.api.status import ContainerState, Wanted
from northstar.core.update_values import Update
from northstar.manifest import Command, Manifest, Service
from northstar.model import Container, ExitStatus, Name, Version

NO_CONTAINERS: Final[frozenset[Container]] = frozenset()

WITH_PROCESS: Final = frozenset(
    (
        ContainerState.RUNNING,
        ContainerState.READY,
        ContainerState.UNHEALTHY,
        ContainerState.STOPPING,
    )
)
"""States with a process, or with the clean-up after its end."""

PENDING: Final = frozenset((ContainerState.WAITING, ContainerState.BACKOFF))
"""States without a process in which the runtime will start the container."""

NO_SERVICE: Final = Service()
"""What a manifest without `service` asks for: nothing."""


class Image(enum.Enum):
    """The state of a container's image."""

    UNMOUNTED = "unmounted"
    MOUNTING = "mounting"
    MOUNTED = "mounted"
    UNMOUNTING = "unmounting"


class Operation(enum.Enum):
    """The current request on a container; there is at most one."""

    MOUNT = "mount"
    UMOUNT = "umount"
    START = "start"
    KILL = "kill"
    UNINSTALL = "uninstall"


class Deferred(enum.Enum):
    """A request that is answered after others on the container may have begun.

    A stop takes until the exit: meanwhile a client must be able to kill the container.
    """

    STOP = "stop"
    """Answered when the container has no process."""
    RESTART = "restart"
    """Answered when the new run is executed, or will not be."""


NOT_DEFERRED: Final[frozenset[Deferred]] = frozenset()


class Cause(enum.Enum):
    """What has requested a start."""

    CLIENT = "client"
    """A client, which receives the failure: nothing is retried."""
    BOOT = "boot"
    """The manifest has `autostart`."""
    AUTOMATIC = "automatic"
    """The end of a wait or of a back-off."""
    UPDATE = "update"
    """An update tries the new version: its failure is a result of the update."""
    ROLLBACK = "rollback"
    """An update starts the old version again."""
    RESTART = "restart"
    """The second half of a restart request: a client receives the failure."""


class Run(msgspec.Struct, frozen=True):
    """One run of a container, from the start request to the end of the clean-up.

    Attributes:
        command: program, arguments and environment.
        resources: the chosen container of each resource mount, by target.
        cause: what has requested it.
        launched: the launch was decided: all images that it needs were mounted.
        failure: why the start will fail, as soon as no image that it needs is in transition.
        pid: the pid of init on the host, after the payload was executed.
        executed: time of that execution, in ns of CLOCK_MONOTONIC.
        fault: why it is being stopped as faulty; empty if it is not.
        signalled: it was sent its stop signal.
        killed: it was sent SIGKILL because it did not end in time.
        ordered: the shutdown has stopped it.
        status: its exit status, while what it holds is being released.
        oom: the kernel has killed a process of it for lack of memory.
        failures: probes of its health that have failed in a row.
        unready: why the last probe of its readiness has failed; empty if none has.
    """

    command: Command
    resources: Mapping[str, Container]
    cause: Cause = Cause.CLIENT
    launched: bool = False
    failure: error.Error | None = None
    pid: int = 0
    executed: int = 0
    fault: str = ""
    signalled: bool = False
    killed: bool = False
    ordered: bool = False
    status: ExitStatus | None = None
    oom: bool = False
    failures: int = 0
    unready: str = ""


class History(msgspec.Struct, frozen=True):
    """What is kept about the runs of a container, after their ends too.

    Attributes:
        command: that of the last start request; automatic starts repeat it. None for that of the
            manifest.
        runs: number of the present or last run, 0 before the first.
        restarts: automatic restarts since the last start request.
        in_a_row: automatic restarts since then, or since a run that was ready for `reset_after`.
        recent: times of the automatic restarts that may count for `limit`, in ns of
            CLOCK_MONOTONIC; at most `limit`.
        text: the app's STATUS=, in the present or last run.
        last: how the last run ended.
    """

    command: Command | None = None
    runs: int = 0
    restarts: int = 0
    in_a_row: int = 0
    recent: tuple[int, ...] = ()
    text: str | None = None
    last: ExitStatus | None = None


NO_HISTORY: Final = History()


class Entry(msgspec.Struct, frozen=True):
    """One installed container.

    Attributes:
        container: its identity: that of the manifest, which makes a new object at each call.
        manifest: its manifest.
        repository: the identifier of the repository that stores its package.
        since: when it entered its state, in ns of CLOCK_MONOTONIC.
        state: the observed state.
        wanted: the requested state.
        reason: why it is in this state, as a phrase; may be empty.
        deadline: when this state ends by itself, in ns of CLOCK_MONOTONIC; None if it does not.
        next_probe: when its next probe begins, in ns of CLOCK_MONOTONIC; None if none is to begin.
        probing: a probe is in progress.
        due: it waits or is in back-off, and its start was requested (`RequestStart`).
        reserved: its back-off ends at a time that was reserved: see `core.pacing`.
        image: the state of its image.
        operation: the current request.
        deferred: the requests that are answered later.
        run: its run; None if it neither starts nor has a process.
        history: what is kept about its runs.
    """

    container: Container
    manifest: Manifest
    repository: str
    since: int
    state: ContainerState = ContainerState.INSTALLED
    wanted: Wanted = Wanted.DOWN
    reason: str = ""
    deadline: int | None = None
    next_probe: int | None = None
    probing: bool = False
    due: bool = False
    reserved: bool = False
    image: Image = Image.UNMOUNTED
    operation: Operation | None = None
    deferred: frozenset[Deferred] = NOT_DEFERRED
    run: Run | None = None
    history: History = NO_HISTORY

    @property
    def has_process(self) -> bool:
        """Whether it has a process, or is being cleaned up."""
        return self.state in WITH_PROCESS

    @property
    def timer(self) -> int | None:
        """The earlier one of `deadline` and `next_probe`: a container needs one timer for both."""
        if self.deadline is None or self.next_probe is None:
            return self.next_probe if self.deadline is None else self.deadline
        return min(self.deadline, self.next_probe)

    @property
    def service(self) -> Service:
        """The section of its manifest; an empty one if the manifest has none."""
        return self.manifest.service or NO_SERVICE


class Repository(msgspec.Struct, frozen=True):
    """Contents and capacity of a repository.

    Attributes:
        packages: the size of each package file in bytes. This includes a package that is being
            stored: it reserves space, and a second one of the same container is refused.
        capacity_num: the largest number of packages, None for no limit.
        capacity_size: the largest sum of package sizes in bytes, None for no limit.
        mount_on_start: its images are mounted at boot.
        anti_downgrade: it accepts no version below the floor of its name.
    """

    packages: Mapping[Container, int] = {}
    capacity_num: int | None = None
    capacity_size: int | None = None
    mount_on_start: bool = False
    anti_downgrade: bool = False


class State(msgspec.Struct, frozen=True):
    """The registry.

    Attributes:
        containers: all installed containers.
        running: the container that starts or runs under each name.
        pending: the container that waits or is in back-off under each name, which no container
            starts or runs under.
        users: the containers that start or run with a container as a resource, by the resource.
        repositories: by identifier, in the order of the configuration.
        wiping: containers whose persistent data is being removed, or will be after their
            uninstall. True while the data is still at its path: then no version may start.
        storing: the `after` of containers whose packages are being stored, unless it is empty.
        stopping: the shutdown has begun.
        stop_timeout: once the shutdown stops the containers: the time in ns that those without
            `service.stop` have.
        failed: a critical container has failed; the runtime ends.
        paced: the result of the last reservation of a restart: see `core.pacing`.
        lacking: time of the warning that the runtime lacks what a probe needs, in ns of
            CLOCK_MONOTONIC; None if it lacks nothing.
        updates: the updates in progress.
        floors: the newest version that was ever committed.
        booting: the boot has not requested its starts yet.
    """

    containers: Mapping[Container, Entry] = {}
    running: Mapping[Name, Container] = {}
    pending: Mapping[Name, Container] = {}
    users: Mapping[Container, frozenset[Container]] = {}
    repositories: Mapping[str, Repository] = {}
    wiping: Mapping[Container, bool] = {}
    storing: Mapping[Container, tuple[Name, ...]] = {}
    stopping: bool = False
    stop_timeout: int | None = None
    failed: bool = False
    paced: int = 0
    lacking: int | None = None
    updates: Mapping[Name, Update] = {}
    floors: Mapping[Name, Version] = {}
    booting: bool = False

    def users_of(self, container: Container) -> frozenset[Container]:
        """Return the containers that start or run with `container` as a resource."""
        return self.users.get(container, NO_CONTAINERS)

    def is_wiping(self, name: Name) -> bool:
        """Return whether persistent data under this name is being removed, or is going to be.

        This begins when an uninstall with a data wipe is accepted: no version of the name uses the
        data then, and none may start to use it.
        """
        return any(present and container.name == name for container, present in self.wiping.items())


class Draft:
    """The state that a step builds, and the actions that it decides, in order.

    Mutable, and used within one step only.
    """

    def __init__(self, state: State, now: int) -> None:
        self.state = state
        self.now = now
        self.actions: list[Any] = []
        self.moved = False
        """A container has entered another state, or was removed."""
        # A copy, made by the first change of the step.
        self._containers: dict[Container, Entry] | None = None

    def act(self, *actions: Any) -> None:
        """Append actions."""
        self.actions += actions

    def set(self, **changes: Any) -> None:
        """Replace fields of the state."""
        self.state = replace(self.state, **changes)

    def put(self, entry: Entry) -> None:
        """Add an entry, or replace it."""
        self._copied_containers()[entry.container] = entry

    def change(self, container: Container, **changes: Any) -> None:
        """Replace fields of an entry. `transitions.enter` changes state and wanted."""
        self.put(replace(self.state.containers[container], **changes))

    def drop(self, container: Container) -> None:
        """Remove an entry."""
        self.moved = True
        del self._copied_containers()[container]

    def _copied_containers(self) -> dict[Container, Entry]:
        if self._containers is None:
            self._containers = dict(self.state.containers)
            self.set(containers=self._containers)
        return self._containers


def without(mapping: Mapping[Any, Any], key: object) -> dict[Any, Any]:
    """Return a copy of `mapping` without `key`."""
    copy = dict(mapping)
    copy.pop(key, None)
    return copy
