"""The errors with which the runtime refuses a request, in their form on the wire.

`str()` of an error is one sentence for the user.
"""

from __future__ import annotations

from northstar.api.shape import Record
from northstar.model import Container, ExitStatus, Name, NorthstarError, quote
from northstar.model.status import Exited, signal_name


class Configuration(Record, frozen=True):
    """The runtime's configuration does not allow it.

    This runtime does not send it. To do: change the configuration as the text says, and start the
    runtime again.

    Attributes:
        context: what is not allowed.
    """

    context: str

    def __str__(self) -> str:
        return f"the runtime's configuration does not allow it: {self.context}"


class DuplicateContainer(Record, frozen=True):
    """The container exists already.

    This runtime does not send it: see `install_duplicate`. To do: use the container that exists.

    Attributes:
        container: the existing container.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} exists already"


class InvalidContainer(Record, frozen=True):
    """No such container, or (mount) it is mounted already.

    It answers each request that names a container. To do: list the installed containers, and
    install the package or correct the version. A container that is mounted already can be
    started without a further request.

    Attributes:
        container: the container in the request.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not installed, or is mounted already"


class InvalidArguments(Record, frozen=True):
    """The arguments of a start are refused.

    Reasons: a name of the environment is empty, contains `=` or NUL, or is reserved for the
    runtime; the program of a start or the first text of an exec is empty or too long. To do:
    correct what the text names.

    Attributes:
        cause: what is wrong with them.
    """

    cause: str

    def __str__(self) -> str:
        return f"invalid arguments: {self.cause}"


class MountBusy(Record, frozen=True):
    """The container cannot be mounted now.

    This runtime does not send it: a mount request waits for other requests on the container. To
    do: repeat the request later.

    Attributes:
        container: the container that cannot be mounted.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is busy and cannot be mounted"


class UmountBusy(Record, frozen=True):
    """The image is in use, or is not mounted.

    It answers umount and uninstall, for a container that runs, for a resource of one that runs,
    and (umount) for one that is not mounted. To do: stop the container that it names first.

    Attributes:
        container: the container that uses the image.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not mounted, or is in use"


class StartContainerStarted(Record, frozen=True):
    """This container, or another version of it, is running.

    Only one version of a container can run. To do: stop the container that it names first, or use
    `update` to replace a version.

    Attributes:
        container: the running container.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is running already"


class StartContainerResource(Record, frozen=True):
    """The container is a resource, which has no init to start.

    To do: start the app that uses it; the resource is mounted with it.

    Attributes:
        container: the resource.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is a resource container: it has no init to start"


class StartContainerMissingResource(Record, frozen=True):
    """No installed resource matches a resource mount of the manifest.

    Or the resource that matches has no directory `dir`. To do: install a version of the resource
    that the requirement accepts, or correct the mount in the manifest.

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

    An image could not be mounted, the host lacks something that the manifest requires, or the
    program could not be executed. To do: read the text; `sextant check` finds many causes in the
    manifest. Nothing of the start is left behind.

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

    It answers kill and exec, of a container without a process. To do: start it first.

    Attributes:
        container: the container in the request.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is not running"


class InvalidRepository(Record, frozen=True):
    """The repository does not exist.

    It answers install, update and keys. To do: list the repositories; they are tables
    `[repositories.NAME]` of the configuration.

    Attributes:
        repository: the name in the request.
    """

    repository: str

    def __str__(self) -> str:
        return f"there is no repository {quote(self.repository)}"


class InstallDuplicate(Record, frozen=True):
    """The container is installed already, here or in another repository.

    To do: uninstall it first, or give the new package another version.

    Attributes:
        container: the installed container.
    """

    container: Container

    def __str__(self) -> str:
        return f"{self.container} is installed already"


class CriticalContainer(Record, frozen=True):
    """A critical container ended, so the runtime shuts down.

    It ends the runtime and is no answer to a request; the error is in the log. The manifest of the
    container has `autostart: critical`. To do: find out why the container ended; the service
    manager starts the runtime again.

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

    Examples: the package is damaged or not signed by the key of the repository, the repository is
    full, the file system reports an error, an update is in progress, the runtime shuts down. To do:
    the text says what is wrong; it is for people, and no interface for programs.

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
