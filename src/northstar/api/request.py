"""The requests of a client."""

from __future__ import annotations

from typing import Final

from northstar.api.feature import EXEC, KEYS, LOGS, SERVICE, UPDATE
from northstar.api.log import LogStream
from northstar.api.shape import I32, U64, Argument, Environment, Record, TokenBytes
from northstar.api.stream import TerminalSize
from northstar.model import Container, Name, Permission, Permissions


class Ident(Record, frozen=True):
    """Return the name and version of this client's container."""


class List(Record, frozen=True):
    """List all installed containers."""


class Repositories(Record, frozen=True):
    """List the names of all repositories."""


class Shutdown(Record, frozen=True):
    """Shut down the runtime."""


class Inspect(Record, frozen=True):
    """Return manifest, repository and state of a container.

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
        init: a program in the container; null for the init of the manifest.
        arguments: its arguments after argv[0]. If not empty, they replace those of the manifest.
        environment: its environment. If not empty, it replaces that of the manifest.
    """

    container: Container
    init: Argument | None
    arguments: tuple[Argument, ...]
    environment: Environment


class Kill(Record, frozen=True):
    """Send a signal to all processes of a container.

    Attributes:
        container: its name and version.
        signal: number of the signal on Linux, for example 15 for SIGTERM.
    """

    container: Container
    signal: I32


class Install(Record, frozen=True):
    """Install a package: `size` raw bytes follow this line.

    Attributes:
        repository: the repository that stores the package.
        size: length of the package in bytes.
    """

    repository: str
    size: U64


class Uninstall(Record, frozen=True):
    """Remove a package.

    Attributes:
        container: its name and version.
        wipe: whether to remove its persistent data too.
    """

    container: Container
    wipe: bool


class TokenCreate(Record, frozen=True):
    """Create a token for `target`, bound to the bytes `shared`.

    Attributes:
        target: the container that can verify the token.
        shared: bytes that both containers have agreed on.
    """

    target: Name
    shared: bytes


class TokenVerify(Record, frozen=True):
    """Check that `user` created this token for this client, with the same `shared`.

    Attributes:
        token: the 40 bytes of the token.
        user: the container that claims to have created the token.
        shared: the bytes that the token must be bound to.
    """

    token: TokenBytes
    user: Name
    shared: bytes


class Status(Record, frozen=True):
    """Return the status of containers.

    Attributes:
        containers: their names and versions; empty for all installed containers.
    """

    containers: tuple[Container, ...]


class Stop(Record, frozen=True):
    """Stop a container: its stop signal, and SIGKILL if it does not end in time.

    The container is not started again until a client requests it.

    Attributes:
        container: its name and version.
        timeout: nanoseconds until SIGKILL; null or absent for the timeout of the manifest.
    """

    container: Container
    timeout: U64 | None = None


class Restart(Record, frozen=True):
    """Stop a container if it runs, and start it, as one operation.

    Attributes:
        container: its name and version.
    """

    container: Container


class Exec(Record, frozen=True):
    """Execute a second program in a started container; answered when it has ended.

    Meanwhile both sides send messages `stream`.

    Attributes:
        container: its name and version.
        command: the program, a path in the container, and its arguments.
        environment: added to the environment of the manifest; replaces variables of the same name.
        stdin: whether it reads the client's input; else its input is empty.
        tty: the size of its terminal; null for pipes.
    """

    container: Container
    command: tuple[Argument, ...]
    environment: Environment
    stdin: bool
    tty: TerminalSize | None


class Logs(Record, frozen=True):
    """Return the output of a container: messages `log`, oldest first, and then the response.

    The output of the newest ended run comes before that of the present one.

    Attributes:
        container: its name and version.
        follow: go on with later output, over restarts, until the package is removed.
        since: only lines of the last nanoseconds; null for no limit.
        lines: only that many lines of what is there now; null for no limit.
        cursor: only what follows the line with this cursor; null for no limit.
        streams: only lines of these streams.
    """

    container: Container
    follow: bool
    since: U64 | None
    lines: U64 | None
    cursor: str | None
    streams: tuple[LogStream, ...]


class Update(Record, frozen=True):
    """Replace an app by the newer version in a package: `size` raw bytes follow this line.

    The new version is tried, and kept or removed; the response comes at the end.

    Attributes:
        repository: the repository of both versions.
        size: length of the package in bytes.
    """

    repository: str
    size: U64


class Keys(Record, frozen=True, omit_defaults=True):
    """Return the key list of a repository, or replace it before by the one that follows it.

    Attributes:
        repository: the name of the repository.
        list: the text of the new list; null or absent for no change.
    """

    repository: str
    list: str | None = None


PlainRequest = (
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
"""The requests of every connection."""

ServiceRequest = Status | Stop | Restart
"""The requests of the feature `service`."""

Request = PlainRequest | ServiceRequest | Exec | Logs | Update | Keys
"""The requests of an extended connection."""

_PERMISSIONS: Final[dict[type[Request], Permissions]] = {
    Ident: frozenset({Permission.IDENT}),
    List: frozenset({Permission.LIST}),
    Repositories: frozenset({Permission.REPOSITORIES}),
    Shutdown: frozenset({Permission.SHUTDOWN}),
    Inspect: frozenset({Permission.INSPECT}),
    Mount: frozenset({Permission.MOUNT}),
    Umount: frozenset({Permission.UMOUNT}),
    Start: frozenset({Permission.START}),
    Kill: frozenset({Permission.KILL}),
    Install: frozenset({Permission.INSTALL}),
    Uninstall: frozenset({Permission.UNINSTALL}),
    TokenCreate: frozenset({Permission.TOKEN_CREATE}),
    TokenVerify: frozenset({Permission.TOKEN_VERIFICATION}),
    Status: frozenset({Permission.INSPECT}),
    Stop: frozenset({Permission.KILL}),
    Restart: frozenset({Permission.KILL, Permission.START}),
    Exec: frozenset({Permission.EXEC}),
    Logs: frozenset({Permission.LOGS}),
    Update: frozenset({Permission.UPDATE}),
    Keys: frozenset({Permission.UPDATE}),
}
_START_COMMAND: Final = frozenset({Permission.START_COMMAND})


def feature(request: Request) -> str | None:
    """Return the feature that the connection must have for a request, if any."""
    match request:
        case Exec():
            return EXEC
        case Logs():
            return LOGS
        case Update():
            return UPDATE
        case Keys():
            return KEYS
    return SERVICE if isinstance(request, ServiceRequest) else None


def permissions(request: Request) -> Permissions:
    """Return the permissions that a request needs.

    A start that replaces a part of the manifest's command needs another permission.
    """
    if isinstance(request, Start) and (
        request.init is not None or request.arguments or request.environment
    ):
        return _START_COMMAND
    return _PERMISSIONS[type(request)]
