"""The console's messages and their codec. No I/O.

`decode` turns a line into a message, `encode` a message into a line. The messages are `Connect`,
`ConnectAck`, `ConnectNack`, and the classes of the modules `request`, `response` and
`notification`. The module `error` contains the errors with which a request is refused.
"""

from northstar.api import error, notification, request, response
from northstar.api.codec import decode, encode
from northstar.api.error import Error, RefusedError
from northstar.api.message import (
    API_VERSION,
    Connect,
    ConnectAck,
    ConnectNack,
    InvalidProtocolVersion,
    Message,
    PermissionDenied,
)
from northstar.api.notification import Notification
from northstar.api.request import Request
from northstar.api.response import ContainerData, Process, Response, TokenResult

__all__ = [
    "API_VERSION",
    "Connect",
    "ConnectAck",
    "ConnectNack",
    "ContainerData",
    "Error",
    "InvalidProtocolVersion",
    "Message",
    "Notification",
    "PermissionDenied",
    "Process",
    "RefusedError",
    "Request",
    "Response",
    "TokenResult",
    "decode",
    "encode",
    "error",
    "notification",
    "request",
    "response",
]
