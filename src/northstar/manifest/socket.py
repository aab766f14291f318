"""`sockets`: UNIX sockets that the runtime opens for the container. See unix(7)."""

from __future__ import annotations

import enum

import msgspec

from northstar.manifest import bounds
from northstar.manifest.kinds import (
    FILE_NAME_PATTERN,
    U32,
    Boolean,
    Choice,
    Integer,
    Text,
    file_name_rule,
)
from northstar.manifest.records import MapOf, Record


class SocketType(enum.Enum):
    """The type of a socket, see socket(2)."""

    STREAM = "stream"
    DATAGRAM = "datagram"
    SEQ_PACKET = "seq_packet"


class Socket(msgspec.Struct, frozen=True):
    """A socket.

    Attributes:
        type: its type.
        mode: permission bits of its file.
        uid: owner of its file; None is the container's.
        gid: group of its file; None is the container's.
        passcred: SO_PASSCRED; None is off.
    """

    type: SocketType
    mode: int
    uid: int | None = None
    gid: int | None = None
    passcred: bool | None = None


SOCKETS = MapOf(
    Text(
        "the name of a socket",
        most=bounds.FILE_NAME_MAX,
        check=file_name_rule,
        pattern=FILE_NAME_PATTERN,
    ),
    Record(
        Socket,
        {
            "type": Choice(SocketType, "a type of socket"),
            "mode": Integer(0, U32, "a file mode"),
            "uid": Integer(0, U32, "a user id"),
            "gid": Integer(0, U32, "a group id"),
            "passcred": Boolean(),
        },
    ),
    most=bounds.SOCKETS_MAX,
)
