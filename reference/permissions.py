"""docs/reference/permissions.md: the permissions of console connections.

The texts are the docstring of Permission; the requests are those that need it.
"""

from __future__ import annotations

from typing import Final, get_args

from northstar import api
from northstar.api.description import describe
from northstar.api.request import permissions
from northstar.api.shape import tag_of
from northstar.model.permission import EXTENDED, FULL, Permission
from reference import markdown
from reference.blocks import SECTION, Block, Code, Terms, Text, Title, markdown_blocks
from reference.examples import session

_INTRODUCTION: Final = """
A connection may do what its permissions allow. Those of the global console are `permissions` in
`[console.global]` of the configuration; anybody who can connect has them. Those of an app's console
are `console.permissions` and `service.permissions` of its manifest: the signature of its package
grants them. A request without its permission is answered by `permission_denied`, see
[the protocol](protocol.md).
"""

_FULL: Final = """
`full` stands for the permissions of Northstar 0.9.2. It does not grow: a device that was set up
before a permission existed must not give it to its clients. Others are named beside it.
"""

_EXAMPLE: Final = '[console.global]\npermissions = ["full", "logs", "exec"]\n'


def pages() -> dict[str, str]:
    """Return the page by its path."""
    page = markdown.page(
        "Permissions",
        "src/northstar/model/permission.py",
        markdown_blocks((Text(_INTRODUCTION.strip()), *blocks())),
    )
    return {"docs/reference/permissions.md": page}


def blocks() -> list[Block]:
    """Return the sections."""
    return [
        Title(SECTION, "Permissions of full"),
        Text(_FULL.strip()),
        Code(_EXAMPLE, "toml"),
        Terms(_HEAD, tuple(row(one) for one in Permission if one in FULL)),
        Title(SECTION, "Permissions beyond full"),
        Text("A manifest has them in `service.permissions`."),
        Terms(_HEAD, tuple(row(one) for one in Permission if one in EXTENDED)),
    ]


_HEAD: Final = ("permission", "what a client with it may do", "requests")


def row(permission: Permission) -> tuple[str, str, str]:
    """Return a permission with its text, and the requests that need it."""
    text = describe(Permission).fields[permission.value]
    return permission.value, text[:1].upper() + text[1:], ", ".join(requests(permission))


def requests(permission: Permission) -> list[str]:
    """Return the requests that need a permission, in the order of the protocol."""
    if permission is Permission.NOTIFICATIONS:
        return ["`connect`"]
    if permission is Permission.START_COMMAND:
        return ["`start`"]
    kinds = {
        type(line.message)
        for line in session()
        if isinstance(line.message, api.Request) and permission in permissions(line.message)
    }
    return [f"`{tag_of(kind)}`" for kind in get_args(api.Request) if kind in kinds]
