"""Errors between a client and the runtime, besides a refusal (`api.RefusedError`).

All are NorthstarErrors: their message is one sentence for a user.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from northstar.api import ConnectNack, InvalidProtocolVersion, Request, Status
from northstar.api.request import permissions
from northstar.model import Container, Name, NorthstarError
from northstar.model.permission import describe


class ConnectError(NorthstarError):
    """No connection was made: no program listens at the address, or it is no runtime.

    Attributes:
        url: the address.
        reason: what the system says, without a full stop.
    """

    def __init__(self, url: str, reason: str, chosen: str | None = None) -> None:
        """Make a message with the next step.

        Args:
            url: the address.
            reason: what the system says.
            chosen: why this address was used, if the caller has not given it.
        """
        place = url if chosen is None else f"{url} ({chosen})"
        hint = "is the runtime running, and is this the address in its console.global.bind?"
        if reason == os.strerror(errno.EACCES):
            hint = "run this as root, or as a user that `mode` and `group` of the console admit"
        super().__init__(f"cannot connect to {place}: {reason}", hint=hint)
        self.url = url
        self.reason = reason


class RejectedError(NorthstarError):
    """The runtime answers, but rejects this connection.

    Attributes:
        nack: its answer.
    """

    def __init__(self, nack: ConnectNack) -> None:
        why = nack.reason
        super().__init__(
            "the runtime rejects the connection: "
            + (
                f"it speaks version {why.version} of the protocol"
                if isinstance(why, InvalidProtocolVersion)
                else "it does not permit notifications"
            ),
            hint=(
                "use a client of that version"
                if isinstance(why, InvalidProtocolVersion)
                else "add notifications to its console.global.permissions, or do not subscribe"
            ),
        )
        self.nack = nack


class PermissionDeniedError(NorthstarError):
    """The connection lacks the permission for a request.

    Attributes:
        request: the request as the runtime decoded it.
    """

    def __init__(
        self, request: Request, *, purpose: str | None = None, hint: str | None = None
    ) -> None:
        """Make a message that names the missing permission.

        Args:
            request: the request as the runtime decoded it.
            purpose: a clause about the use of the permission, if the caller made another request.
            hint: what to do, unless it is to change the permissions.
        """
        needed = [repr(word) for word in describe(permissions(request)).split(", ")]
        lacking = (
            f"lacks the permission {needed[0]}"
            if len(needed) == 1
            else f"needs the permissions {' and '.join(needed)}"
        )
        message = f"permission denied: this connection {lacking}"
        super().__init__(
            message if purpose is None else f"{message}, {purpose}",
            hint=hint
            or "permissions are set in the runtime's console.global.permissions, "
            "or for containers in the manifest's console.permissions",
        )
        self.request = request


class NameLookupError(NorthstarError):
    """A name without a version is not unique: no container of that name is installed, or several.

    Attributes:
        name: the name.
        versions: the installed containers of that name.
    """

    def __init__(
        self, name: Name, versions: tuple[Container, ...], others: Collection[Name] = ()
    ) -> None:
        """Make a message with the next step.

        Args:
            name: the name.
            versions: the installed containers of that name.
            others: the names of all installed containers.
        """
        if versions:
            found = f"several versions of {name} are installed: {', '.join(map(str, versions))}"
            super().__init__(found, hint="give one of them")
        else:
            super().__init__(f"no container {name} is installed", hint=not_installed(name, others))
        self.name = name
        self.versions = versions


class StillRunningError(NorthstarError, TimeoutError):
    """A container has not ended in time.

    Attributes:
        container: the container.
        pid: of its init on the host, or None if it is not known.
    """

    def __init__(
        self, container: Container, what: str, pid: int | None, *, hint: str | None = None
    ) -> None:
        super().__init__(f"{container} {what}", hint=hint)
        self.container = container
        self.pid = pid


class MissingFeatureError(NorthstarError):
    """The runtime does not have a feature; nothing was sent.

    Attributes:
        feature: the name of the feature.
    """

    def __init__(self, feature: str) -> None:
        super().__init__(f'this runtime cannot do that: it has no feature "{feature}"')
        self.feature = feature


class NotReachedError(NorthstarError):
    """A container has not reached a state, and does not reach it without another request.

    Attributes:
        container: the container.
        status: its status.
    """

    def __init__(self, container: Container, what: str, status: Status) -> None:
        """Make a message of a clause about the container, and of its status."""
        super().__init__(f"{container} {what}: its state is {phrase(status)}")
        self.container = container
        self.status = status


class WaitTimeoutError(NotReachedError, TimeoutError):
    """A container has not reached a state in time. It may still reach it."""


def not_installed(name: str, others: Collection[Name]) -> str:
    """Return the next step for a name of which no container is installed."""
    from northstar.model.similar import similar

    if not others:
        return "nothing is installed: begin with nstar install FILE REPOSITORY"
    meant = similar(name, others)
    return f"did you mean {meant}?" if meant else "nstar list shows what is installed"


def phrase(status: Status) -> str:
    """Return the state with its reason, as `backoff (exit 1)`."""
    return f"{status.state.value} ({status.reason})" if status.reason else status.state.value


class DisconnectedError(NorthstarError):
    """The connection ended before the answer was received."""


class NoAnswerError(NorthstarError, TimeoutError):
    """The answer did not come in time. The runtime may still process the request."""


class NotificationsLostError(NorthstarError):
    """Notifications arrived faster than they were read, and later ones were dropped."""


def reason(error: Exception) -> str:
    """Return the text of an error, without errno and arguments."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        # asyncio replaces strerror by other texts.
        return os.strerror(error.errno)
    # Errors of getaddrinfo have negative numbers.
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
