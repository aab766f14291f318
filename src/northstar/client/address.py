"""Where the console is: URLs, and the descriptor that a container gets."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

from northstar.model import InvalidValueError

DEFAULT_PORT: Final = 4200
CONSOLE: Final = "NORTHSTAR_CONSOLE"
"""Names the descriptor of a container's console connection."""

_TCP: Final = re.compile(
    r"tcp://(?:\[(?P<v6>[^\[\]/]+)\]|(?P<host>[^:\[\]/]+))(?::(?P<port>[0-9]{1,5}))?/?\Z"
)


class Tcp(NamedTuple):
    """A host, as a name or an address, and a port."""

    host: str
    port: int


class Unix(NamedTuple):
    """The path of a Unix socket."""

    path: str


def parse(url: str) -> Tcp | Unix:
    """Read `tcp://host[:port]` (port 4200 if none) or `unix:///path`.

    Raises:
        InvalidValueError: it is neither.
    """
    match = _TCP.match(url)
    if match:
        port = int(match["port"] or DEFAULT_PORT)
        if 0 < port < 2**16:
            return Tcp(match["v6"] or match["host"], port)
    path = url.removeprefix("unix://")
    if path != url and path.startswith("/") and "\0" not in path:
        return Unix(path)
    raise InvalidValueError(
        f"{url!r} is not the address of a console (tcp://HOST[:PORT] or unix:///PATH)"
    )


def environment_socket(environment: Mapping[str, str] = os.environ) -> socket.socket:
    """Return the stream socket whose number is in NORTHSTAR_CONSOLE, which now owns it.

    Raises:
        InvalidValueError: the variable is missing or names no connected stream socket.
    """
    text = environment.get(CONSOLE)
    if text is None:
        raise InvalidValueError(
            f"{CONSOLE} is not set",
            hint="it is in containers whose manifest has a console section",
        )
    try:
        if not text.isascii() or not text.isdigit():
            raise InvalidValueError(f"{CONSOLE} is {text!r} and no descriptor")
        stream = socket.socket(fileno=int(text))
    except (OSError, OverflowError) as error:
        raise InvalidValueError(f"{CONSOLE} is {text} and no open socket ({error})") from None
    if stream.type != socket.SOCK_STREAM:
        # Not ours, whatever it is: leave it open.
        stream.detach()
        raise InvalidValueError(f"{CONSOLE} is {text}, which is no stream socket")
    return stream
