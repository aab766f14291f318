"""Permissions of a console connection, for manifests and for the configuration."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final


class Permission(enum.Enum):
    """An operation that a connection may request; the value is its name in messages and manifests.

    Log lines list permissions in the order of declaration.

    Attributes:
        IDENT: the client may request its own name.
        INSPECT: it may read the manifest, the processes, the statistics and the status of all
            containers, their environment included.
        INSTALL: it may install packages that the key of the repository verifies; in a repository
            without a key, any package, and with `start` run any program.
        KILL: it may send signals to all containers, and stop them.
        LIST: it may list the installed containers. Names without a version need it too.
        NOTIFICATIONS: it may subscribe to notifications.
        MOUNT: it may mount the images of containers.
        REPOSITORIES: it may list the repositories.
        SHUTDOWN: it may end the runtime, and with it all containers.
        START: it may start all containers, with the program of their manifests.
        START_COMMAND: it may start all containers with any program of their images, any arguments
            and any environment. It replaces `start` for these requests and does not include it.
        TOKEN_CREATE: it may create tokens, by which containers prove their names to each other.
        TOKEN_VERIFICATION: it may verify tokens that were created for it.
        UMOUNT: it may unmount images that are not in use.
        UNINSTALL: it may remove packages, and their persistent data.
        EXEC: it may execute any program of a running container in it, with the rights of its
            payload.
        LOGS: it may read the output of all containers.
        UPDATE: it may replace apps by newer versions that the key of the repository verifies, and
            read and replace key lists by lists that the present one has signed.
        UPGRADE: reserved; no request needs it.
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
