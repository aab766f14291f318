"""Addresses of the console: URLs, and the descriptor that a container inherits."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from northstar.model import InvalidValueError
from northstar.model.address import TcpAddress, UnixAddress, parse_address

Tcp = TcpAddress
Unix = UnixAddress

CONSOLE: Final = "NORTHSTAR_CONSOLE"
"""Environment variable with the descriptor of a container's console connection."""


def parse(url: str) -> Tcp | Unix:
    """Parse `tcp://host[:port]` (default port 4200), `unix:///path` or `unix:/path`.

    Raises:
        InvalidValueError: it is none of these, or has port 0.
    """
    address = parse_address(url)
    if isinstance(address, TcpAddress) and not address.port:
        raise InvalidValueError(f"{url!r} is not the address of a console: it has port 0")
    return address


def environment_socket(environment: Mapping[str, str] = os.environ) -> socket.socket:
    """Return the stream socket whose number is in NORTHSTAR_CONSOLE. It owns the descriptor.

    Raises:
        InvalidValueError: the variable is missing, or its value is not that of a stream socket.
    """
    text = environment.get(CONSOLE)
    if text is None:
        raise InvalidValueError(
            f"{CONSOLE} is not set",
            hint="it is set in containers whose manifest has a console section",
        )
    try:
        if not text.isascii() or not text.isdigit():
            raise InvalidValueError(f"{CONSOLE} is {text!r}, which is no descriptor")
        stream = socket.socket(fileno=int(text))
    except (OSError, OverflowError) as error:
        raise InvalidValueError(f"{CONSOLE} is {text}, which is no open socket ({error})") from None
    if stream.type != socket.SOCK_STREAM:
        # The descriptor has another purpose: leave it open.
        stream.detach()
        raise InvalidValueError(f"{CONSOLE} is {text}, which is no stream socket")
    return stream
