"""`sockets`: Unix sockets that the runtime opens for the container. See unix(7)."""

import enum
from typing import Annotated

import msgspec

from northstar.manifest import bounds
from northstar.schema.records import Field, MapOf, Record
from northstar.schema.scalars import U32, Boolean, Integer, file_name
from northstar.schema.variants import Choice


class SocketType(enum.Enum):
    """The type of a socket, see socket(2)."""

    STREAM = "stream"
    DATAGRAM = "datagram"
    SEQ_PACKET = "seq_packet"


_UID = Integer(0, U32, "a user id", unit="user id")
_GID = Integer(0, U32, "a group id", unit="group id")


class Socket(msgspec.Struct, frozen=True):
    """A socket."""

    type: Annotated[
        SocketType,
        Field(Choice(SocketType, "a type of socket"), "Its type. See unix(7).", example="stream"),
    ]
    mode: Annotated[
        int,
        Field(
            Integer(0, U32, "a file mode", unit="file mode"),
            "Permissions of its file. To connect, a user needs write access.",
            example=0o660,
        ),
    ]
    uid: Annotated[
        int | None,
        Field(_UID, "Owner of its file.", "the container's user", example=1000),
    ] = None
    gid: Annotated[
        int | None,
        Field(_GID, "Group of its file.", "the container's group", example=1000),
    ] = None
    passcred: Annotated[
        bool | None,
        Field(Boolean(), "Set SO_PASSCRED: messages carry the sender's ids.", "off", example=True),
    ] = None


SOCKETS = MapOf(
    file_name("the name of a socket", bounds.FILE_NAME_MAX),
    Record(Socket),
    max_entries=bounds.SOCKETS_MAX,
)
