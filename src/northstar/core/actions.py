"""Actions that `step` decides. The runtime executes them, and reports their results as events."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from northstar.api import error
from northstar.api.notification import Notification
from northstar.core.update_values import Record
from northstar.core.values import Cause, Deferred, Entry
from northstar.manifest import Command, Probe
from northstar.model import Container, Name, Version


class Mount(msgspec.Struct, frozen=True):
    """Mount an image. Ends in `ImageMounted` or `MountFailed`."""

    container: Container


class Umount(msgspec.Struct, frozen=True):
    """Unmount an image. Ends in `ImageUnmounted` or `UmountFailed`."""

    container: Container


class Launch(msgspec.Struct, frozen=True):
    """Launch the process. Ends in `Executed`, `StartFailed` or `DirectoryMissing`.

    Attributes:
        container: its image and the images of all resources are mounted.
        command: program, arguments and environment.
        resources: the chosen container of each resource mount, by target.
    """

    container: Container
    command: Command
    resources: Mapping[str, Container]


class SendSignal(msgspec.Struct, frozen=True):
    """Signal the container's process group. Ends in `SignalSent`, even after its exit."""

    container: Container
    number: int


class Release(msgspec.Struct, frozen=True):
    """Release all resources that the exited container holds. Ends in `Released`."""

    container: Container


class RemovePackage(msgspec.Struct, frozen=True):
    """Remove the package from its repository. Ends in `PackageRemoved` or `RemovalFailed`."""

    container: Container


class WipeData(msgspec.Struct, frozen=True):
    """Remove the persistent data. Ends in `DataWiped` or `WipeFailed`.

    `DataDetached` may come before.
    """

    container: Container


class Publish(msgspec.Struct, frozen=True):
    """Send a notification to all subscribers."""

    notification: Notification


class PublishState(msgspec.Struct, frozen=True):
    """Send the notification `state`, if anybody receives it: its content is not computed before.

    Attributes:
        entry: the container after the change of its state, or of what is wanted.
    """

    entry: Entry


class SetDeadline(msgspec.Struct, frozen=True):
    """Give `DeadlineReached` at a time from now on; replaces an earlier time.

    Attributes:
        container: the container.
        when: ns of CLOCK_MONOTONIC; None for never.
    """

    container: Container
    when: int | None


class StartProbe(msgspec.Struct, frozen=True):
    """Execute a probe. Ends in `ProbeSucceeded`, `ProbeFailed` or `ProbeLacking`, or by `EndProbe`.

    Attributes:
        container: it has a process, and no other probe in progress.
        probe: the probe.
        timeout: it has failed after this time, in ns from its beginning. It begins when fewer
            than `max_probes` are in progress.
    """

    container: Container
    probe: Probe
    timeout: int


class EndProbe(msgspec.Struct, frozen=True):
    """End the probe in progress. No event reports its result."""

    container: Container


class RequestStart(msgspec.Struct, frozen=True):
    """Request a start in the name of the runtime, after earlier requests on the container."""

    container: Container
    cause: Cause


class RequestUninstall(msgspec.Struct, frozen=True):
    """Request an uninstall in the name of an update, after earlier requests on the container."""

    container: Container


class StorePackage(msgspec.Struct, frozen=True):
    """Store the verified package of an update. Ends in `PackageStored` or `StoreFailed`."""

    container: Container


class WriteRecord(msgspec.Struct, frozen=True):
    """Write to the state file durably. Ends in `RecordWritten` or `RecordFailed`.

    Attributes:
        name: of the update.
        record: what to write; None to remove it.
        floor: the new floor of the name, written together with it; None for no change.
    """

    name: Name
    record: Record | None
    floor: Version | None = None


class CopyData(msgspec.Struct, frozen=True):
    """Copy the persistent data of a name. Ends in `DataStepEnded`."""

    name: Name


class RestoreData(msgspec.Struct, frozen=True):
    """Put the copy in place of the persistent data. Ends in `DataStepEnded`."""

    name: Name


class DiscardData(msgspec.Struct, frozen=True):
    """Remove the copy of the persistent data, if there is one. Ends in `DataStepEnded`."""

    name: Name


class SetUpdateTimer(msgspec.Struct, frozen=True):
    """Give `UpdateTimeReached` at a time, in ns of CLOCK_MONOTONIC; replaces an earlier one."""

    name: Name
    when: int


class CompleteUpdate(msgspec.Struct, frozen=True):
    """Answer the client of an update.

    Attributes:
        new: the version that was to replace the other.
        old: the other version.
        error: the failure; None if it is committed.
    """

    new: Container
    old: Container
    error: error.Error | None = None


class Log(msgspec.Struct, frozen=True):
    """Write a line to the log.

    Attributes:
        level: as in `logging`.
        message: the line.
    """

    level: int
    message: str


class Complete(msgspec.Struct, frozen=True):
    """Answer the current request on a container; the next one can begin.

    Attributes:
        container: the container.
        error: the failure; None if the request succeeded.
    """

    container: Container
    error: error.Error | None = None


class Defer(msgspec.Struct, frozen=True):
    """The current request on a container is answered later; the next one can begin."""

    container: Container
    request: Deferred


class Answer(msgspec.Struct, frozen=True):
    """Answer all deferred requests of a kind on a container.

    Attributes:
        container: the container.
        request: the kind.
        error: the failure; None if they succeeded.
        killed: the container did not end in time, and was sent SIGKILL.
    """

    container: Container
    request: Deferred
    error: error.Error | None = None
    killed: bool = False


class Fail(msgspec.Struct, frozen=True):
    """Shut the runtime down with an error: a critical container failed."""

    error: error.Error


Action = (
    Mount
    | Umount
    | Launch
    | SendSignal
    | Release
    | RemovePackage
    | WipeData
    | Publish
    | PublishState
    | SetDeadline
    | StartProbe
    | EndProbe
    | RequestStart
    | RequestUninstall
    | StorePackage
    | WriteRecord
    | CopyData
    | RestoreData
    | DiscardData
    | SetUpdateTimer
    | CompleteUpdate
    | Log
    | Complete
    | Defer
    | Answer
    | Fail
)
