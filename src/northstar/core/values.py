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
from northstar.manifest import Command, Manifest
from northstar.model import Container, ExitStatus, Name

NO_CONTAINERS: Final[frozenset[Container]] = frozenset()


class Phase(enum.Enum):
    """The observed state of a container. A process exists in `RUNNING` and `STOPPING`."""

    INSTALLED = "installed"
    """No process."""
    STARTING = "starting"
    """Images are being mounted or the process launched, up to the payload's execve(2)."""
    RUNNING = "running"
    """The payload was executed."""
    STOPPING = "stopping"
    """A signal that ends it was sent, or it has exited and is being cleaned up."""
    REMOVING = "removing"
    """It is being uninstalled."""


class Wanted(enum.Enum):
    """The requested state. Only requests, the boot, an exit and the shutdown change it."""

    UP = "up"
    DOWN = "down"


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


class Run(msgspec.Struct, frozen=True):
    """One run of a container, from the start request to the end of the clean-up.

    Attributes:
        command: program, arguments and environment.
        resources: the chosen container of each resource mount, by target.
        boot: the runtime requested the start, since the manifest has `autostart`.
        launched: the launch was decided: all images that it needs were mounted.
        failure: why the start will fail, as soon as no image that it needs is in transition.
        pid: the pid of init on the host, after the payload was executed.
        executed: time of that execution, in ns of CLOCK_MONOTONIC.
        status: its exit status, while what it holds is being released.
    """

    command: Command
    resources: Mapping[str, Container]
    boot: bool = False
    launched: bool = False
    failure: error.Error | None = None
    pid: int = 0
    executed: int = 0
    status: ExitStatus | None = None


class Entry(msgspec.Struct, frozen=True):
    """One installed container.

    Attributes:
        container: its identity: that of the manifest, which makes a new object at each call.
        manifest: its manifest.
        repository: the identifier of the repository that stores its package.
        since: when it entered its phase, in ns of CLOCK_MONOTONIC.
        phase: the observed state.
        wanted: the requested state.
        image: the state of its image.
        operation: the current request.
        run: its run; None if it neither starts nor has a process.
    """

    container: Container
    manifest: Manifest
    repository: str
    since: int
    phase: Phase = Phase.INSTALLED
    wanted: Wanted = Wanted.DOWN
    image: Image = Image.UNMOUNTED
    operation: Operation | None = None
    run: Run | None = None

    @property
    def has_process(self) -> bool:
        """Whether it has a process, or is being cleaned up."""
        return self.phase in (Phase.RUNNING, Phase.STOPPING)


class Repository(msgspec.Struct, frozen=True):
    """Contents and capacity of a repository.

    Attributes:
        packages: the size of each package file in bytes. This includes a package that is being
            stored: it reserves space, and a second one of the same container is refused.
        capacity_num: the largest number of packages, None for no limit.
        capacity_size: the largest sum of package sizes in bytes, None for no limit.
        mount_on_start: its images are mounted at boot.
    """

    packages: Mapping[Container, int] = {}
    capacity_num: int | None = None
    capacity_size: int | None = None
    mount_on_start: bool = False


class State(msgspec.Struct, frozen=True):
    """The registry.

    Attributes:
        containers: all installed containers.
        running: the container that starts or runs under each name.
        users: the containers that start or run with a container as a resource, by the resource.
        repositories: by identifier, in the order of the configuration.
        wiping: containers whose persistent data is being removed, or will be after their
            uninstall. True while the data is still at its path: then no version may start.
        stopping: the shutdown has begun.
        failed: a critical container has failed; the runtime ends.
    """

    containers: Mapping[Container, Entry] = {}
    running: Mapping[Name, Container] = {}
    users: Mapping[Container, frozenset[Container]] = {}
    repositories: Mapping[str, Repository] = {}
    wiping: Mapping[Container, bool] = {}
    stopping: bool = False
    failed: bool = False

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
        """Replace fields of an entry; a change of phase updates `since`."""
        entry = self.state.containers[container]
        if changes.get("phase", entry.phase) is not entry.phase:
            changes["since"] = self.now
        self.put(replace(entry, **changes))

    def drop(self, container: Container) -> None:
        """Remove an entry."""
        del self._copied_containers()[container]

    def _copied_containers(self) -> dict[Container, Entry]:
        if self._containers is None:
            self._containers = dict(self.state.containers)
            self.set(containers=self._containers)
        return self._containers


def without(mapping: Mapping[Any, Any], key: object) -> dict[Any, Any]:
    """Return a copy of `mapping` without `key`."""
    return {k: v for k, v in mapping.items() if k != key}
