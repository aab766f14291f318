"""The other end of a connection."""

from __future__ import annotations

import socket
from collections.abc import Hashable
from typing import Final, NamedTuple

from northstar.model import Container, Name, Version
from northstar.runtime.console.tokens import OUTSIDE, OUTSIDE_NAME, container_party

EXTERN: Final = Container(Name(OUTSIDE_NAME), Version(0, 0, 0))
"""The name of all clients from outside on the wire."""


class Peer(NamedTuple):
    """A container, or a client from outside with its address, such as `tcp://1.2.3.4:5`."""

    container: Container | None
    address: str = ""

    @property
    def identity(self) -> Container:
        """The answer to the peer's `ident` request."""
        return self.container or EXTERN

    @property
    def party(self) -> str:
        """The peer's party in tokens: the name alone could mean a container or a client outside."""
        return OUTSIDE if self.container is None else container_party(self.container.name)

    def __str__(self) -> str:
        return f"Container({self.container})" if self.container else f"Remote({self.address})"


def address(peername: object) -> str:
    """Return the address in a socket's peer name as a URL."""
    match peername:
        case (str() as host, int() as port, *_):
            return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        case str() as path if path:
            return f"unix://{path}"
        case bytes() as name if name:
            return f"unix://@{name.lstrip(bytes(1)).decode(errors='backslashreplace')}"
        case _:
            return "unix://unnamed"


def owner(sock: socket.socket) -> Hashable:
    """Return the owner of a connection: its process (unix(7), SO_PEERCRED), or its host."""
    if sock.family == socket.AF_UNIX:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return None  # the connection is closed already
