"""The messages of the console: those that open a connection, and the union of all."""

from __future__ import annotations

from typing import Final

from northstar.api.log import Log
from northstar.api.notification import Closing, Notification
from northstar.api.request import Request
from northstar.api.response import Response
from northstar.api.shape import Body, Record, Wrapper
from northstar.api.stream import Stream
from northstar.model import Version

API_VERSION: Final = Version(0, 9, 2)
"""The version of the protocol. A client's version must be at least 0.9; the patch level is ignored.
"""


class Connect(Record, frozen=True, omit_defaults=True):
    """The first message of a client.

    Attributes:
        version: the client's version of the protocol.
        subscribe_notifications: whether the runtime sends notifications.
        extended: whether the client wants an extended connection. Absent means no; a runtime
            without extended connections ignores it.
    """

    version: Version
    subscribe_notifications: bool
    extended: bool | None = None


class Features(Body, frozen=True):
    """What an extended connection offers.

    Attributes:
        features: names of features; a client ignores those that it does not know.
    """

    features: tuple[str, ...]


class ConnectAck(Wrapper, frozen=True):
    """The client may send requests.

    Attributes:
        features: the features of an extended connection; null for any other.
    """

    features: Features | None = None


class PermissionDenied(Record, frozen=True):
    """The client lacks the permission to subscribe to notifications."""


class InvalidProtocolVersion(Record, frozen=True):
    """The client's version of the protocol is too old.

    Attributes:
        version: the runtime's version of the protocol.
    """

    version: Version


class ConnectNack(Wrapper, frozen=True):
    """The connection is refused. The runtime closes it after this message.

    Attributes:
        reason: why it is refused.
    """

    reason: PermissionDenied | InvalidProtocolVersion


Message = (
    Connect | ConnectAck | ConnectNack | Request | Response | Notification | Closing | Log | Stream
)
