"""Actions that `step` decides. The runtime executes them, and reports their results as events."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from northstar.api import error
from northstar.api.notification import Notification
from northstar.core.values import Cause, Deferred, Entry
from northstar.manifest import Command, Probe
from northstar.model import Container


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
    | Log
    | Complete
    | Defer
    | Answer
    | Fail
)
