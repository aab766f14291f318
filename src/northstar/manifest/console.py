"""`console`: a console connection for the container, and its permissions."""

from typing import Annotated

import msgspec

from northstar.model import Permissions
from northstar.schema.records import Field, Record
from northstar.schema.values import PermissionSet


class Console(msgspec.Struct, frozen=True):
    """A console connection with these permissions."""

    permissions: Annotated[
        Permissions, Field(PermissionSet(), "Permissions of the container: `full`, or a list.")
    ]


CONSOLE = Record(Console)
