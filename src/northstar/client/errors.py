"""What can go wrong between a client and the runtime, besides a refusal (`api.RefusedError`).

All are NorthstarErrors: one sentence for a person.
"""

from __future__ import annotations

import os

from northstar.api import ConnectNack, InvalidProtocolVersion, Request
from northstar.api.request import permission
from northstar.model import Container, Name, NorthstarError


class ConnectError(NorthstarError):
    """There is no connection: nobody listens, or what listens is no runtime."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"cannot connect to {url}: {reason}",
            hint="is the runtime running, and is this the address in its console.global.bind?",
        )
        self.url = url


class RejectedError(NorthstarError):
    """The runtime answers, but does not want this connection.

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
            )
        )
        self.nack = nack


class PermissionDeniedError(NorthstarError):
    """The connection lacks the permission for a request.

    Attributes:
        request: the request as the runtime understood it.
    """

    def __init__(
        self, request: Request, *, purpose: str | None = None, hint: str | None = None
    ) -> None:
        """Say which permission is missing.

        Args:
            request: the request as the runtime understood it.
            purpose: a clause about the permission, where the caller did not make the request.
            hint: what to do, if it is not to change the permissions.
        """
        needed = permission(request).value
        message = f"permission denied: this connection lacks the permission {needed!r}"
        super().__init__(
            message if purpose is None else f"{message}, {purpose}",
            hint=hint
            or "permissions are given in the runtime's console.global.permissions, "
            "or for containers in the manifest's console.permissions",
        )
        self.request = request


class NameLookupError(NorthstarError):
    """A name without a version does not say which container: none is installed, or several are.

    Attributes:
        name: the name.
        versions: the installed containers of that name.
    """

    def __init__(self, name: Name, versions: tuple[Container, ...]) -> None:
        if versions:
            found = f"several versions of {name} are installed: {', '.join(map(str, versions))}"
            super().__init__(found, hint="name one of them")
        else:
            super().__init__(f"no container {name} is installed", hint="see nstar list")
        self.name = name
        self.versions = versions


class StillRunningError(NorthstarError, TimeoutError):
    """A container has not ended in time.

    Attributes:
        container: which.
        pid: of its init on the host, where that is known.
    """

    def __init__(
        self, container: Container, what: str, pid: int | None, *, hint: str | None = None
    ) -> None:
        super().__init__(f"{container} {what}", hint=hint)
        self.container = container
        self.pid = pid


class DisconnectedError(NorthstarError):
    """The connection ended before the answer came."""


class NoAnswerError(NorthstarError, TimeoutError):
    """The answer did not come in time. The runtime may still work on the request."""


class NotificationsLostError(NorthstarError):
    """Notifications came faster than they were taken, and the later ones were dropped."""


def reason(error: Exception) -> str:
    """Return an error of the operating system in words, without its number and arguments."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        # asyncio puts words of its own in the place of strerror.
        return os.strerror(error.errno)
    # Errors of getaddrinfo have negative numbers.
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
