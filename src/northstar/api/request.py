"""The requests of a client."""

from __future__ import annotations

from typing import Final

from northstar.api.shape import I32, U64, Argument, Environment, Record, TokenBytes
from northstar.model import Container, Name, Permission


class Ident(Record, frozen=True):
    """Who am I?"""


class List(Record, frozen=True):
    """All installed containers."""


class Repositories(Record, frozen=True):
    """The names of all repositories."""


class Shutdown(Record, frozen=True):
    """End the runtime."""


class Inspect(Record, frozen=True):
    """What is known of a container."""

    container: Container


class Mount(Record, frozen=True):
    """Mount containers."""

    containers: tuple[Container, ...]


class Umount(Record, frozen=True):
    """Unmount containers."""

    containers: tuple[Container, ...]


class Start(Record, frozen=True):
    """Start a container.

    Attributes:
        init: a program in the container instead of the manifest's init.
        arguments, environment: if not empty, they replace the manifest's.
    """

    container: Container
    init: Argument | None
    arguments: tuple[Argument, ...]
    environment: Environment


class Kill(Record, frozen=True):
    """Send a signal (its number on Linux) to all processes of a container."""

    container: Container
    signal: I32


class Install(Record, frozen=True):
    """Install a package: `size` raw bytes follow this line."""

    repository: str
    size: U64


class Uninstall(Record, frozen=True):
    """Remove a package, with `wipe` its persistent data too."""

    container: Container
    wipe: bool


class TokenCreate(Record, frozen=True):
    """Make a token for `target`, bound to the bytes `shared`."""

    target: Name
    shared: bytes


class TokenVerify(Record, frozen=True):
    """Check that `user` made this token for us, with the same `shared`."""

    token: TokenBytes
    user: Name
    shared: bytes


Request = (
    Ident
    | List
    | Repositories
    | Shutdown
    | Inspect
    | Mount
    | Umount
    | Start
    | Kill
    | Install
    | Uninstall
    | TokenCreate
    | TokenVerify
)

_PERMISSIONS: Final[dict[type[Request], Permission]] = {
    Ident: Permission.IDENT,
    List: Permission.LIST,
    Repositories: Permission.REPOSITORIES,
    Shutdown: Permission.SHUTDOWN,
    Inspect: Permission.INSPECT,
    Mount: Permission.MOUNT,
    Umount: Permission.UMOUNT,
    Start: Permission.START,
    Kill: Permission.KILL,
    Install: Permission.INSTALL,
    Uninstall: Permission.UNINSTALL,
    TokenCreate: Permission.TOKEN_CREATE,
    TokenVerify: Permission.TOKEN_VERIFICATION,
}


def permission(request: Request) -> Permission:
    """Return the permission that a request needs.

    To start something else than what the manifest says is a permission of its own.
    """
    if isinstance(request, Start) and (
        request.init is not None or request.arguments or request.environment
    ):
        return Permission.START_COMMAND
    return _PERMISSIONS[type(request)]
