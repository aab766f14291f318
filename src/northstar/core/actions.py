"""What `step` decides to be done. The runtime executes it, and reports what happened as events."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from northstar.api import error
from northstar.api.notification import Notification
from northstar.manifest import Command
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
        container: which; its image and all resources are mounted.
        command: what is executed.
        resources: the container that was chosen for each resource mount, by target.
    """

    container: Container
    command: Command
    resources: Mapping[str, Container]


class SendSignal(msgspec.Struct, frozen=True):
    """Send a signal to the container's process group. Ends in `SignalSent`, also if it is gone."""

    container: Container
    number: int


class Release(msgspec.Struct, frozen=True):
    """Release everything that the ended container holds. Ends in `Released`."""

    container: Container


class RemovePackage(msgspec.Struct, frozen=True):
    """Remove the package from its repository. Ends in `PackageRemoved` or `RemovalFailed`."""

    container: Container


class WipeData(msgspec.Struct, frozen=True):
    """Remove the persistent data. Ends in `DataWiped` or `WipeFailed`.

    Perhaps after `DataDetached`.
    """

    container: Container


class Publish(msgspec.Struct, frozen=True):
    """Send a notification to all subscribers."""

    notification: Notification


class Log(msgspec.Struct, frozen=True):
    """Write a line to the log.

    Attributes:
        level: as in `logging`.
        message: the line.
    """

    level: int
    message: str


class Complete(msgspec.Struct, frozen=True):
    """Answer the request that was going on for a container; the next one can begin.

    Attributes:
        container: which.
        error: why it failed, None if it succeeded.
    """

    container: Container
    error: error.Error | None = None


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
    | Log
    | Complete
    | Fail
)
