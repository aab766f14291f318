"""Addresses of a console: `tcp://host[:port]`, or a Unix socket."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from northstar.model.errors import InvalidValueError
from northstar.model.pattern import Pattern

DEFAULT_PORT: Final = 4200

_TCP: Final = Pattern(
    r"tcp://(?:\[([0-9A-Fa-f:.]+(?:%[^\]/]+)?)\]|([^\[\]:/?#@]+))(?::([0-9]{1,5}))?/?\Z"
)
# An empty authority may be left out (RFC 3986, 3.2): `unix:/path` is `unix:///path`.
_UNIX: Final = Pattern(r"unix:(?://(?=/)|(?!//))(/[^\0]+)\Z", re.DOTALL)


class TcpAddress(NamedTuple):
    """`tcp://host:port`. The host is a name or an address, IPv6 addresses without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


class UnixAddress(NamedTuple):
    """`unix:///path`."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


def parse_address(url: str) -> TcpAddress | UnixAddress:
    """Parse `tcp://host[:port]` (default port: 4200), `unix:///path` or `unix:/path`.

    Raises:
        InvalidValueError: it has none of these forms.
    """
    if match := _UNIX.match(url):
        return UnixAddress(match[1])
    if match := _TCP.match(url):
        port = int(match[3]) if match[3] else DEFAULT_PORT
        if port < 2**16:
            return TcpAddress(match[1] or match[2], port)
    raise InvalidValueError(
        f"{url!r} is not the address of a console (tcp://HOST[:PORT] or unix:///PATH)"
    )
