"""Permissions of a console connection, for manifests and for the configuration."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final


class Permission(enum.Enum):
    """An operation that a connection may request; the value is its name in messages and manifests.

    Log lines list permissions in the order of declaration.
    """

    IDENT = "ident"
    INSPECT = "inspect"
    INSTALL = "install"
    KILL = "kill"
    LIST = "list"
    NOTIFICATIONS = "notifications"
    MOUNT = "mount"
    REPOSITORIES = "repositories"
    SHUTDOWN = "shutdown"
    START = "start"
    START_COMMAND = "start_command"
    TOKEN_CREATE = "token_create"  # noqa: S105 - the name of a permission
    TOKEN_VERIFICATION = "token_verification"  # noqa: S105
    UMOUNT = "umount"
    UNINSTALL = "uninstall"
    EXEC = "exec"
    LOGS = "logs"
    UPDATE = "update"
    UPGRADE = "upgrade"


Permissions = frozenset[Permission]

FULL: Final[Permissions] = frozenset(
    (
        Permission.IDENT,
        Permission.INSPECT,
        Permission.INSTALL,
        Permission.KILL,
        Permission.LIST,
        Permission.NOTIFICATIONS,
        Permission.MOUNT,
        Permission.REPOSITORIES,
        Permission.SHUTDOWN,
        Permission.START,
        Permission.START_COMMAND,
        Permission.TOKEN_CREATE,
        Permission.TOKEN_VERIFICATION,
        Permission.UMOUNT,
        Permission.UNINSTALL,
    )
)
"""`full` in manifest and configuration: the permissions of Northstar 0.9.2.

It does not grow with `Permission`: a package or a device that was set up before a permission
existed must not gain it."""

EXTENDED: Final[Permissions] = frozenset(Permission) - FULL
"""The permissions that are not part of `full`; each must be named."""


def describe(permissions: Iterable[Permission]) -> str:
    """Return the names joined by `, `, in the order of declaration."""
    held = set(permissions)
    return ", ".join(permission.value for permission in Permission if permission in held)
