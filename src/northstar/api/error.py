"""The errors with which the runtime refuses a request, in their form on the wire.

`str()` of an error is one sentence for the user.
"""

from __future__ import annotations

from northstar.api.shape import Record
from northstar.model import Container, ExitStatus, Name, NorthstarError, quote
from northstar.model.status import Exited, signal_name


class Configuration(Record, frozen=True):
    """The runtime's configuration does not allow it.

    Attributes:
        context: what is not allowed.
    """

    context: str

    def __str__(self) -> str:
        return f"the runtime's configuration does not allow it: {self.context}"


class DuplicateContainer(Record, frozen=True):
    """The container exists already.

    Attributes:
        container: the existing container.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} exists already"


class InvalidContainer(Record, frozen=True):
    """No such container, or (mount) it is mounted already.

    Attributes:
        container: the container in the request.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not installed, or is mounted already"


class InvalidArguments(Record, frozen=True):
    """The arguments of a start are refused.

    Attributes:
        cause: what is wrong with them.
    """

    cause: str

    def __str__(self) -> str:
        return f"invalid arguments: {self.cause}"


class MountBusy(Record, frozen=True):
    """The container cannot be mounted now.

    Attributes:
        container: the container that cannot be mounted.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is busy and cannot be mounted"


class UmountBusy(Record, frozen=True):
    """The image is in use, or is not mounted.

    Attributes:
        container: the container that uses the image.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not mounted, or is in use"


class StartContainerStarted(Record, frozen=True):
    """This container, or another version of it, is running.

    Attributes:
        container: the running container.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is running already"


class StartContainerResource(Record, frozen=True):
    """The container is a resource, which has no init to start.

    Attributes:
        container: the resource.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is a resource container: it has no init to start"


class StartContainerMissingResource(Record, frozen=True):
    """No installed resource matches a resource mount of the manifest.

    Attributes:
        container: the container of the request.
        resource: the name of the resource in the manifest.
        version: the version requirement; if the resource lacks `dir`, the resource's version.
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
    """The start failed.

    Attributes:
        container: the container of the request.
        error: the step that failed, its path and the reason.
    """

    container: Container
    error: str

    def __str__(self) -> str:
        return f"{self.container} could not be started: {self.error}"


class StopContainerNotStarted(Record, frozen=True):
    """The container is not running.

    Attributes:
        container: the container in the request.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not running"


class InvalidRepository(Record, frozen=True):
    """The repository does not exist.

    Attributes:
        repository: the name in the request.
    """

    repository: str

    def __str__(self) -> str:
        return f"there is no repository {quote(self.repository)}"


class InstallDuplicate(Record, frozen=True):
    """The container is installed already, here or in another repository.

    Attributes:
        container: the installed container.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is installed already"


class CriticalContainer(Record, frozen=True):
    """A critical container ended, so the runtime shuts down.

    Attributes:
        container: the critical container.
        status: its exit status.
    """

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
    """Any other reason.

    Attributes:
        error: the reason.
    """

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
    """The runtime refuses a request. Raised inside the runtime, and in the clients.

    Attributes:
        error: the reason, in its form on the wire.
    """

    def __init__(
        self, error: Error, message: str | None = None, *, hint: str | None = None
    ) -> None:
        """Refuse a request.

        Args:
            error: the reason, in its form on the wire.
            message: the reason for the user, if the receiver knows more than `error` says.
            hint: the next step.
        """
        super().__init__(str(error) if message is None else message, hint=hint)
        self.error = error
