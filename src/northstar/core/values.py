"""The registry: what the runtime knows of its containers, images and repositories.

All values are immutable. `step` returns a changed registry and never changes one. The mappings are
replaced as a whole: a device has some dozens of containers, and copying a mapping of 500 takes
some microseconds.
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

NOBODY: Final[frozenset[Container]] = frozenset()


class Phase(enum.Enum):
    """What is seen of a container. A process exists in `RUNNING` and `STOPPING`."""

    INSTALLED = "installed"
    """No process."""
    STARTING = "starting"
    """Images are mounted and the process is launched, up to the payload's execve(2)."""
    RUNNING = "running"
    """The payload was executed."""
    STOPPING = "stopping"
    """A signal that ends it was sent, or it has ended and is cleaned up."""
    REMOVING = "removing"
    """It is being uninstalled."""


class Wanted(enum.Enum):
    """What was asked for. Only requests, the boot, an exit and the shutdown change it."""

    UP = "up"
    DOWN = "down"


class Image(enum.Enum):
    """The state of a container's image."""

    UNMOUNTED = "unmounted"
    MOUNTING = "mounting"
    MOUNTED = "mounted"
    UNMOUNTING = "unmounting"


class Operation(enum.Enum):
    """The request on a container that is going on; there is at most one."""

    MOUNT = "mount"
    UMOUNT = "umount"
    START = "start"
    KILL = "kill"
    UNINSTALL = "uninstall"


class Run(msgspec.Struct, frozen=True):
    """One run of a container, from the start request to the end of the clean-up.

    Attributes:
        command: what is executed.
        resources: the container that was chosen for each resource mount, by target.
        boot: the runtime asked for it, since the manifest has `autostart`.
        launched: the launch was ordered: all images that it needs were mounted.
        failure: why the start will fail once no image that it needs is in transition.
        pid: of init on the host, once the payload was executed.
        executed: when that was, in ns of CLOCK_MONOTONIC.
        status: how its processes ended; what it holds is being released then.
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
        manifest: its manifest.
        repository: the identifier of the repository that stores its package.
        since: when it came into its phase, in ns of CLOCK_MONOTONIC.
        phase: what is seen.
        wanted: what was asked for.
        image: the state of its image.
        operation: the request that is going on.
        run: its run; None if it neither starts nor has a process.
    """

    manifest: Manifest
    repository: str
    since: int
    phase: Phase = Phase.INSTALLED
    wanted: Wanted = Wanted.DOWN
    image: Image = Image.UNMOUNTED
    operation: Operation | None = None
    run: Run | None = None

    @property
    def container(self) -> Container:
        """Its identity."""
        return self.manifest.container

    @property
    def has_process(self) -> bool:
        """Whether a process of it exists, or is being cleaned up."""
        return self.phase in (Phase.RUNNING, Phase.STOPPING)


class Repository(msgspec.Struct, frozen=True):
    """What a repository contains, and how much it may contain.

    Attributes:
        packages: the size of each package file in bytes. Also of a package that is being stored:
            its place is reserved, and no second one of the same container is accepted.
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
        wiping: containers whose persistent data is being removed, or will be when they are
            uninstalled; and whether it is still in its place: then no version can use that.
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
        return self.users.get(container, NOBODY)

    def is_wiping(self, name: Name) -> bool:
        """Tell whether persistent data under this name is being removed, or is going to be.

        From the moment when an uninstall that wipes is accepted: it was checked that no version of
        the name uses the data, and none may begin to.
        """
        return any(there and container.name == name for container, there in self.wiping.items())


class Draft:
    """The state that a step builds, and the actions that it has decided, in order.

    Mutable, and never visible outside of one step.
    """

    def __init__(self, state: State, now: int) -> None:
        self.state = state
        self.now = now
        self.actions: list[Any] = []
        # Copied at the first change of the step, and only then.
        self._containers: dict[Container, Entry] | None = None

    def act(self, *actions: Any) -> None:
        """Decide actions."""
        self.actions += actions

    def set(self, **changes: Any) -> None:
        """Replace fields of the state."""
        self.state = replace(self.state, **changes)

    def put(self, entry: Entry) -> None:
        """Add an entry, or replace it."""
        self._own_containers()[entry.container] = entry

    def change(self, container: Container, **changes: Any) -> None:
        """Replace fields of an entry; a change of phase is dated."""
        entry = self.state.containers[container]
        if changes.get("phase", entry.phase) is not entry.phase:
            changes["since"] = self.now
        self.put(replace(entry, **changes))

    def drop(self, container: Container) -> None:
        """Remove an entry."""
        del self._own_containers()[container]

    def _own_containers(self) -> dict[Container, Entry]:
        if self._containers is None:
            self._containers = dict(self.state.containers)
            self.set(containers=self._containers)
        return self._containers


def without(mapping: Mapping[Any, Any], key: object) -> dict[Any, Any]:
    """Return a copy of `mapping` that lacks `key`."""
    return {k: v for k, v in mapping.items() if k != key}
