"""Events: requests of clients and of the runtime itself, and observations.

The runtime gives a request on a container (`MountRequested` to `UninstallRequested`) to `step` only
after the former request on that container is completed or deferred. It is refused, or it ends in
`Complete`, or it is deferred (`Defer`) and ends in `Answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from northstar.core.update_values import Record
from northstar.core.values import Cause
from northstar.manifest import Manifest
from northstar.model import Container, ExitStatus, Name, Version

if TYPE_CHECKING:
    from northstar.model.notify import NotifyMessage


class MountRequested(msgspec.Struct, frozen=True):
    """Mount the image."""

    container: Container


class UmountRequested(msgspec.Struct, frozen=True):
    """Unmount the image."""

    container: Container


class StartRequested(msgspec.Struct, frozen=True):
    """Start the container.

    Attributes:
        container: the container.
        init: replaces the manifest's, which replaces `<INIT>` in it; None for the manifest's.
        arguments: replace the manifest's, unless empty.
        environment: replaces the manifest's, unless empty.
        cause: what has requested it. An automatic start repeats the last command.
    """

    container: Container
    init: str | None = None
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    cause: Cause = Cause.CLIENT


class KillRequested(msgspec.Struct, frozen=True):
    """Send a signal (1..31) to the container's process group."""

    container: Container
    number: int


class StopRequested(msgspec.Struct, frozen=True):
    """End the container: its stop signal, and SIGKILL after `timeout` ns; None for the manifest's.

    A container without a process is not started again by the runtime, and nothing else happens.
    """

    container: Container
    timeout: int | None = None


class RestartRequested(msgspec.Struct, frozen=True):
    """End the container as a stop does, if it has a process, and start it."""

    container: Container


class UninstallRequested(msgspec.Struct, frozen=True):
    """Remove the package, and with `wipe` the persistent data.

    `updating`: a step of an update requests it; other requests on its versions are refused.
    """

    container: Container
    wipe: bool = False
    updating: bool = False


class InstallRequested(msgspec.Struct, frozen=True):
    """Receive a package of `size` bytes into a repository."""

    repository: str
    size: int


class PackageGrew(msgspec.Struct, frozen=True):
    """`size` bytes of a package have been received so far."""

    repository: str
    size: int


class PackageVerified(msgspec.Struct, frozen=True):
    """A received package is valid, and can be stored.

    Attributes:
        repository: its repository.
        container: the container in it.
        size: in bytes.
        after: `service.after` of its manifest.
    """

    repository: str
    container: Container
    size: int
    after: tuple[Name, ...] = ()


class PackageStored(msgspec.Struct, frozen=True):
    """A verified package is stored durably."""

    repository: str
    manifest: Manifest


class StoreFailed(msgspec.Struct, frozen=True):
    """A verified package could not be stored."""

    repository: str
    container: Container
    reason: str = ""


class PackageLoaded(msgspec.Struct, frozen=True):
    """A stored package was found when the runtime started.

    `recorded`: an update in the state file names it. It is loaded even if it is below the floor,
    since the update removes it.
    """

    repository: str
    manifest: Manifest
    size: int
    recorded: bool = False


class ImageMounted(msgspec.Struct, frozen=True):
    """An image was mounted."""

    container: Container


class MountFailed(msgspec.Struct, frozen=True):
    """An image could not be mounted; the attempt left nothing behind."""

    container: Container
    reason: str


class ImageUnmounted(msgspec.Struct, frozen=True):
    """An image was unmounted."""

    container: Container


class UmountFailed(msgspec.Struct, frozen=True):
    """An image could not be unmounted; it is still mounted."""

    container: Container
    reason: str


class ImageLost(msgspec.Struct, frozen=True):
    """A mounted image is not mounted any more: another program has unmounted it."""

    container: Container


class Executed(msgspec.Struct, frozen=True):
    """The payload was executed; `pid` is the pid of init on the host."""

    container: Container
    pid: int


class StartFailed(msgspec.Struct, frozen=True):
    """The process could not be launched; the attempt left nothing behind."""

    container: Container
    reason: str


class DirectoryMissing(msgspec.Struct, frozen=True):
    """The resource that is mounted on `target` lacks the directory that the manifest names."""

    container: Container
    target: str


class SignalSent(msgspec.Struct, frozen=True):
    """A signal was sent, or the process had exited already."""

    container: Container


class Notified(msgspec.Struct, frozen=True):
    """The container has sent a message to its notify socket."""

    container: Container
    message: NotifyMessage


class DeadlineReached(msgspec.Struct, frozen=True):
    """The time of the last `SetDeadline` has come. Earlier messages of the container were given."""

    container: Container


class ProbeSucceeded(msgspec.Struct, frozen=True):
    """The probe in progress has succeeded."""

    container: Container


class ProbeFailed(msgspec.Struct, frozen=True):
    """The probe in progress has failed; `reason` is one printable line: `exit 1: queue is stuck`.

    What the container itself lacks is a failure of the container.
    """

    container: Container
    reason: str


class ProbeLacking(msgspec.Struct, frozen=True):
    """The probe in progress could not be executed: the runtime lacks a resource.

    It says nothing about the container.
    """

    container: Container
    reason: str


class ProcessExited(msgspec.Struct, frozen=True):
    """All processes of the container have ended.

    Attributes:
        container: the container.
        status: that of the payload.
        oom: the kernel has killed a process of it for lack of memory.
    """

    container: Container
    status: ExitStatus
    oom: bool = False


class Released(msgspec.Struct, frozen=True):
    """The ended container holds nothing any more."""

    container: Container


class PackageRemoved(msgspec.Struct, frozen=True):
    """The package is removed from its repository."""

    container: Container


class RemovalFailed(msgspec.Struct, frozen=True):
    """The package could not be removed; it is still stored."""

    container: Container
    reason: str


class DataDetached(msgspec.Struct, frozen=True):
    """Persistent data was renamed, and is being removed under its new name."""

    container: Container


class DataWiped(msgspec.Struct, frozen=True):
    """The persistent data is removed, or did not exist."""

    container: Container


class WipeFailed(msgspec.Struct, frozen=True):
    """Persistent data could not be removed."""

    container: Container
    reason: str


class UpdateRequested(msgspec.Struct, frozen=True):
    """Receive a package of `size` bytes for an update in a repository."""

    repository: str
    size: int


class UpdateVerified(msgspec.Struct, frozen=True):
    """A package for an update is received and valid.

    Attributes:
        repository: its repository.
        manifest: its manifest.
        size: in bytes.
        problem: why this host cannot start it, or not copy the data; None if it can.
    """

    repository: str
    manifest: Manifest
    size: int
    problem: str | None = None


class RecordsLoaded(msgspec.Struct, frozen=True):
    """The state file was read, and all packages were loaded.

    Attributes:
        records: the updates that were in progress, by name.
        floors: the newest version that was ever committed, by name.
    """

    records: Mapping[Name, Record]
    floors: Mapping[Name, Version]


class BootOrdered(msgspec.Struct, frozen=True):
    """The starts of the boot were requested."""


class RecordWritten(msgspec.Struct, frozen=True):
    """The state file has the content of the last `WriteRecord` of a name."""

    name: Name


class RecordFailed(msgspec.Struct, frozen=True):
    """The state file could not be written."""

    name: Name
    reason: str


class DataStepEnded(msgspec.Struct, frozen=True):
    """Persistent data was copied, restored, or its copy removed.

    `reason` is empty, or says why it has failed.
    """

    name: Name
    reason: str = ""


class UpdateTimeReached(msgspec.Struct, frozen=True):
    """The time of the last `SetUpdateTimer` has come."""

    name: Name


class ShutdownBegan(msgspec.Struct, frozen=True):
    """No request but `kill` and `stop` is accepted from now on."""


class StopAll(msgspec.Struct, frozen=True):
    """Stop all containers, each after those that have it in their `after`: a step of the shutdown.

    Attributes:
        timeout: time in ns from the stop signal of a container without `service.stop` to SIGKILL.
    """

    timeout: int


class SignalAll(msgspec.Struct, frozen=True):
    """Send a signal to all containers that have a process: a step of the shutdown."""

    number: int


class UmountAll(msgspec.Struct, frozen=True):
    """Unmount all images that are not in use: the last step of the shutdown."""


Request = (
    MountRequested
    | UmountRequested
    | StartRequested
    | KillRequested
    | StopRequested
    | RestartRequested
    | UninstallRequested
)
"""A request on a container."""

Event = (
    Request
    | InstallRequested
    | PackageGrew
    | PackageVerified
    | PackageStored
    | StoreFailed
    | PackageLoaded
    | ImageMounted
    | MountFailed
    | ImageUnmounted
    | UmountFailed
    | ImageLost
    | Executed
    | StartFailed
    | DirectoryMissing
    | SignalSent
    | Notified
    | DeadlineReached
    | ProbeSucceeded
    | ProbeFailed
    | ProbeLacking
    | ProcessExited
    | Released
    | PackageRemoved
    | RemovalFailed
    | DataDetached
    | DataWiped
    | WipeFailed
    | UpdateRequested
    | UpdateVerified
    | RecordsLoaded
    | BootOrdered
    | RecordWritten
    | RecordFailed
    | DataStepEnded
    | UpdateTimeReached
    | ShutdownBegan
    | StopAll
    | SignalAll
    | UmountAll
)
