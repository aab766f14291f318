"""Addresses of the console: URLs, and the descriptor that a container inherits."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

from northstar.model import InvalidValueError
from northstar.model.address import TcpAddress, UnixAddress, parse_address

Tcp = TcpAddress
Unix = UnixAddress

URL: Final = "NORTHSTAR_URL"
"""Environment variable with the address of the console."""

SOCKET: Final = "/run/northstar/console"
"""The Unix socket of the runtime that the documentation sets up."""

TCP: Final = "tcp://localhost:4200"
"""The address that clients of Northstar 0.9.2 use by default."""

CONSOLE: Final = "NORTHSTAR_CONSOLE"
"""Environment variable with the descriptor of a container's console connection."""


class Chosen(NamedTuple):
    """The address that is used if the caller gives none.

    Attributes:
        url: the address.
        reason: why it is this one, a clause for an error.
    """

    url: str
    reason: str


def default(environment: Mapping[str, str] = os.environ) -> Chosen:
    """Return the address in NORTHSTAR_URL; else the Unix socket if it exists, else port 4200."""
    if url := environment.get(URL):
        return Chosen(url, f"{URL} names it")
    try:
        os.stat(SOCKET)
    except (FileNotFoundError, NotADirectoryError):
        return Chosen(TCP, f"the default, since {SOCKET} does not exist")
    except OSError:
        # Without permission to look, the socket may exist: its error names what is missing.
        pass
    return Chosen(f"unix://{SOCKET}", "the default")


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
