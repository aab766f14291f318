"""The console's messages and their codec. No I/O.

`decode` turns a line into a message, `encode` a message into a line. `decode_extended`
reads the lines of an extended connection, which has more messages. The messages are `Connect`,
`ConnectAck`, `ConnectNack`, and the classes of the modules `request`, `response` and
`notification`. The module `error` contains the errors with which a request is refused.
"""

from northstar.api import error, feature, notification, request, response
from northstar.api.codec import decode, decode_extended, encode
from northstar.api.error import Error, RefusedError
from northstar.api.inspection import InspectAnswer
from northstar.api.message import (
    API_VERSION,
    Connect,
    ConnectAck,
    ConnectNack,
    Features,
    InvalidProtocolVersion,
    Message,
    PermissionDenied,
)
from northstar.api.notification import Notification
from northstar.api.request import Request
from northstar.api.response import ContainerData, Process, Response, TokenResult
from northstar.api.status import ContainerState, Status, Wanted

__all__ = [
    "API_VERSION",
    "Connect",
    "ConnectAck",
    "ConnectNack",
    "ContainerData",
    "ContainerState",
    "Error",
    "Features",
    "InspectAnswer",
    "InvalidProtocolVersion",
    "Message",
    "Notification",
    "PermissionDenied",
    "Process",
    "RefusedError",
    "Request",
    "Response",
    "Status",
    "TokenResult",
    "Wanted",
    "decode",
    "decode_extended",
    "encode",
    "error",
    "feature",
    "notification",
    "request",
    "response",
]
