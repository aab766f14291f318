"""What can go wrong between a client and the runtime, besides a refusal (`api.RefusedError`).

All are NorthstarErrors: one sentence for a person.
"""

from __future__ import annotations

import os

from northstar.api import ConnectNack, InvalidProtocolVersion, Request
from northstar.api.request import permission
from northstar.model import NorthstarError


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

    def __init__(self, request: Request) -> None:
        needed = permission(request).value
        super().__init__(
            f"permission denied: this connection lacks the permission {needed!r}",
            hint="permissions are given in the runtime's console.global.permissions, "
            "or for containers in the manifest's console.permissions",
        )
        self.request = request


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
