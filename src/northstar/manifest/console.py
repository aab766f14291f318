"""`console`: a console connection for the container, and its permissions."""

from typing import Annotated

import msgspec

from northstar.model import EXTENDED, Permissions
from northstar.model.permission import describe
from northstar.schema.records import Field, Record
from northstar.schema.values import PermissionSet

# Northstar 0.9.2 refuses a manifest with a permission here that it does not know.
_PERMISSIONS = PermissionSet(item_hint=f"service.permissions can have {describe(EXTENDED)}")


class Console(msgspec.Struct, frozen=True):
    """A console connection with these permissions."""

    permissions: Annotated[
        Permissions,
        Field(
            _PERMISSIONS,
            "Permissions of the container: `full`, or a list, which may be empty.",
            example=["ident", "notifications"],
        ),
    ]


CONSOLE = Record(Console)
