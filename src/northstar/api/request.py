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
    """What is known of a container.

    Attributes:
        container: its name and version.
    """

    container: Container


class Mount(Record, frozen=True):
    """Mount containers.

    Attributes:
        containers: their names and versions.
    """

    containers: tuple[Container, ...]


class Umount(Record, frozen=True):
    """Unmount containers.

    Attributes:
        containers: their names and versions.
    """

    containers: tuple[Container, ...]


class Start(Record, frozen=True):
    """Start a container.

    Attributes:
        container: its name and version.
        init: a program in the container instead of the manifest's init; null for that.
        arguments: its arguments after argv[0]; if not empty, they replace the manifest's.
        environment: its environment; if not empty, it replaces the manifest's.
    """

    container: Container
    init: Argument | None
    arguments: tuple[Argument, ...]
    environment: Environment


class Kill(Record, frozen=True):
    """Send a signal to all processes of a container.

    Attributes:
        container: its name and version.
        signal: number of the signal on Linux, as 15 for SIGTERM.
    """

    container: Container
    signal: I32


class Install(Record, frozen=True):
    """Install a package: `size` raw bytes follow this line.

    Attributes:
        repository: where the package is stored.
        size: length of the package in bytes.
    """

    repository: str
    size: U64


class Uninstall(Record, frozen=True):
    """Remove a package.

    Attributes:
        container: its name and version.
        wipe: whether its persistent data is removed, too.
    """

    container: Container
    wipe: bool


class TokenCreate(Record, frozen=True):
    """Make a token for `target`, bound to the bytes `shared`.

    Attributes:
        target: the container that shall verify the token.
        shared: bytes that both sides know, at their choice.
    """

    target: Name
    shared: bytes


class TokenVerify(Record, frozen=True):
    """Check that `user` made this token for us, with the same `shared`.

    Attributes:
        token: the 40 bytes of the token.
        user: the container that made the token, by its claim.
        shared: the bytes that the token was made with.
    """

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
