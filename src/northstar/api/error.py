"""The errors with which the runtime refuses a request, as they stand on the wire.

`str()` of each is one sentence for a person.
"""

from __future__ import annotations

from northstar.api.shape import Record
from northstar.model import Container, ExitStatus, Name, NorthstarError, quote
from northstar.model.status import Exited, signal_name


class Configuration(Record, frozen=True):
    """The runtime's configuration does not allow it."""

    context: str

    def __str__(self) -> str:
        return f"the runtime's configuration does not allow it: {self.context}"


class DuplicateContainer(Record, frozen=True):
    """The container is known already."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is there already"


class InvalidContainer(Record, frozen=True):
    """No such container, or (mount) it is mounted already."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not installed, or is mounted already"


class InvalidArguments(Record, frozen=True):
    """The arguments of a start are refused."""

    cause: str

    def __str__(self) -> str:
        return f"invalid arguments: {self.cause}"


class MountBusy(Record, frozen=True):
    """The container cannot be mounted now."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is busy and cannot be mounted"


class UmountBusy(Record, frozen=True):
    """The container, or the user of the resource that is named here, needs the mount."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not mounted, or is in use"


class StartContainerStarted(Record, frozen=True):
    """This container, or another version of it, runs; named is the one that runs."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is running already"


class StartContainerResource(Record, frozen=True):
    """A resource has no init that could be started."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is a resource container: it has no init to start"


class StartContainerMissingResource(Record, frozen=True):
    """No installed container fulfils a resource mount.

    Attributes:
        resource: the name that the manifest asks for.
        version: the requirement; or, if `dir` is missing in the resource, the resource's version.
    """

    container: Container
    resource: Name
    version: str

    def __str__(self) -> str:
        return (
            f"{self.container} needs the resource {self.resource} ({self.version}), which is "
            "not installed or lacks the directory"
        )


class StartContainerFailed(Record, frozen=True):
    """The start failed; `error` names the step, the path and the reason."""

    container: Container
    error: str

    def __str__(self) -> str:
        return f"{self.container} could not be started: {self.error}"


class StopContainerNotStarted(Record, frozen=True):
    """The container does not run."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not running"


class InvalidRepository(Record, frozen=True):
    """No such repository."""

    repository: str

    def __str__(self) -> str:
        return f"there is no repository {quote(self.repository)}"


class InstallDuplicate(Record, frozen=True):
    """The container is installed already, here or in another repository."""

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is installed already"


class CriticalContainer(Record, frozen=True):
    """A critical container ended, and the runtime with it."""

    container: Container
    status: ExitStatus

    def __str__(self) -> str:
        status = self.status
        how = (
            f"exited with code {status.code}"
            if isinstance(status, Exited)
            else f"was ended by {signal_name(status.signal)}"
        )
        return f"the critical container {self.container} {how}"


class Unexpected(Record, frozen=True):
    """Any other reason, in words."""

    error: str

    def __str__(self) -> str:
        return self.error


Error = (
    Configuration
    | DuplicateContainer
    | InvalidContainer
    | InvalidArguments
    | MountBusy
    | UmountBusy
    | StartContainerStarted
    | StartContainerResource
    | StartContainerMissingResource
    | StartContainerFailed
    | StopContainerNotStarted
    | InvalidRepository
    | InstallDuplicate
    | CriticalContainer
    | Unexpected
)


class RefusedError(NorthstarError):
    """The runtime refuses a request. Raised inside the runtime, and again by the clients.

    Attributes:
        error: the reason, as it stands on the wire.
    """

    def __init__(self, error: Error) -> None:
        super().__init__(str(error))
        self.error = error
