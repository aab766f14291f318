"""Clients of the console: `Client` for asyncio, `northstar.client.blocking.Client` without it.

A program outside a container connects with `Client.connect()`, or to a given URL; a program in a
container with `Client.from_env()`. Each request is a method::

    async with await Client.connect(subscribe=True) as client:
        await client.start("hello")
        print(await client.wait("hello", timeout=60))    # the exit status
        async for notification in client.notifications():
            print(notification)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from northstar.api import RefusedError
from northstar.client.errors import (
    ConnectError,
    DisconnectedError,
    MissingFeatureError,
    NameLookupError,
    NoAnswerError,
    NotificationsLostError,
    NotReachedError,
    PermissionDeniedError,
    RejectedError,
    StillRunningError,
    WaitTimeoutError,
)
from northstar.client.session import Stopped, StopTimeout

if TYPE_CHECKING:
    from northstar.client.asynchronous import Client
    from northstar.client.usage import Statistics, statistics

__all__ = [
    "Client",
    "ConnectError",
    "DisconnectedError",
    "MissingFeatureError",
    "NameLookupError",
    "NoAnswerError",
    "NotReachedError",
    "NotificationsLostError",
    "PermissionDeniedError",
    "RefusedError",
    "RejectedError",
    "Statistics",
    "StillRunningError",
    "StopTimeout",
    "Stopped",
    "WaitTimeoutError",
    "statistics",
]


def __getattr__(name: str) -> Any:
    # The import of asyncio takes longer than a whole run of the blocking client.
    if name == "Client":
        from northstar.client.asynchronous import Client

        return Client
    if name in ("Statistics", "statistics"):
        from northstar.client import usage

        return getattr(usage, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
