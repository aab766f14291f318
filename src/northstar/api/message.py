"""The messages of the console: the greeting, and what may follow it."""

from __future__ import annotations

from typing import Final

from northstar.api.notification import Notification
from northstar.api.request import Request
from northstar.api.response import Response
from northstar.api.shape import Record, Wrapper
from northstar.model import Version

API_VERSION: Final = Version(0, 9, 2)
"""The version of the protocol. A client's must be at least 0.9, whatever its patch level."""


class Connect(Record, frozen=True):
    """The first message of a client.

    Attributes:
        version: the version of the protocol that the client speaks.
        subscribe_notifications: whether the runtime shall send notifications.
    """

    version: Version
    subscribe_notifications: bool


class ConnectAck(Wrapper, frozen=True):
    """The client may send requests.

    Attributes:
        nothing: always null.
    """

    nothing: None = None


class PermissionDenied(Record, frozen=True):
    """The client may not subscribe."""


class InvalidProtocolVersion(Record, frozen=True):
    """The client is too old; `version` is the runtime's.

    Attributes:
        version: the version that the runtime speaks.
    """

    version: Version


class ConnectNack(Wrapper, frozen=True):
    """The connection is refused, and closed after this.

    Attributes:
        reason: why.
    """

    reason: PermissionDenied | InvalidProtocolVersion


Message = Connect | ConnectAck | ConnectNack | Request | Response | Notification
