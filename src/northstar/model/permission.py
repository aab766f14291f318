"""Permissions of a console connection. Manifest (containers) and configuration use them both."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final


class Permission(enum.Enum):
    """One thing that a connection may do; the value is its name on the wire and in manifests.

    Declared in the order in which log lines print them.
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


Permissions = frozenset[Permission]

FULL: Final[Permissions] = frozenset(Permission)
"""All permissions: `full` in manifest and configuration."""


def describe(permissions: Iterable[Permission]) -> str:
    """Return the names joined by `, `, in the order of declaration."""
    held = set(permissions)
    return ", ".join(permission.value for permission in Permission if permission in held)
