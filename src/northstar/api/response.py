"""The answers of the runtime, one to each request."""

from __future__ import annotations

import enum
from typing import ClassVar

from northstar.api import request
from northstar.api.error import Error
from northstar.api.shape import U32, U64, Body, JsonObject, Record, TokenBytes, Wrapper
from northstar.model import Container


class Process(Body, frozen=True, rename={"uptime_ns": "uptime"}):
    """The process of a started container.

    Attributes:
        pid: of the container's init, in the host's PID namespace.
        uptime_ns: nanoseconds since the start.
        statistics: of the container's cgroups; members `memory`, `cpu`, `blkio`, `pids`, each
            only if its controller is there.
    """

    pid: U32
    uptime_ns: U64
    statistics: JsonObject


class ContainerData(Body, frozen=True):
    """What is known of an installed container.

    Attributes:
        manifest: its serialised form. A plain dict and no Manifest: a client must be able to
            read what a runtime of another version answers, and most only print it.
        repository: where its package is.
        mounted: whether its image is mounted.
        process: None if it is not started.
    """

    manifest: JsonObject
    repository: str
    mounted: bool
    process: Process | None


class Ok(Record, frozen=True):
    """It is done.

    Attributes:
        container: the container that the request was about.
    """

    container: Container


class InspectOk(Record, frozen=True):
    """The answer to an inspect request.

    Attributes:
        container: its name and version.
        data: what is known of it.
    """

    TAG: ClassVar = "ok"
    container: Container
    data: ContainerData


class Failed(Record, frozen=True):
    """It is not done.

    Attributes:
        container: the container that the request was about.
        error: why it is not done.
    """

    TAG: ClassVar = "error"
    container: Container
    error: Error


class InstallFailed(Record, frozen=True):
    """It is not installed.

    Attributes:
        error: why it is not installed.
    """

    TAG: ClassVar = "error"
    error: Error


class TokenResult(enum.Enum):
    """What a token is worth.

    Attributes:
        OK: `user` made it for this connection, with these bytes, and it is still good.
        INVALID: it is none, or was made by or for somebody else, or with other bytes.
        EXPIRED: it is older than the runtime's `token_validity`.
        FUTURE: its time has not come: the clock was set back.
    """

    OK = "Ok"
    INVALID = "Invalid"
    EXPIRED = "Expired"
    FUTURE = "Future"


class Ident(Wrapper, frozen=True):
    """The name of the connection: `extern:0.0.0`, or the container's own.

    Attributes:
        container: the name and version.
    """

    container: Container


class List(Wrapper, frozen=True):
    """All installed containers.

    Attributes:
        containers: their names and versions.
    """

    containers: tuple[Container, ...]


class Repositories(Wrapper, frozen=True):
    """The names of all repositories.

    Attributes:
        names: as in the runtime's configuration.
    """

    names: tuple[str, ...]


class Shutdown(Record, frozen=True):
    """The shutdown begins."""


class Inspect(Wrapper, frozen=True):
    """What is known of the container.

    Attributes:
        result: the data, or why there is none.
    """

    result: InspectOk | Failed


class Mount(Wrapper, frozen=True):
    """A result for each container, in the order asked.

    Attributes:
        results: for each container whether it is mounted, or why not.
    """

    results: tuple[Ok | Failed, ...]


class Umount(Wrapper, frozen=True):
    """A result for each container, in the order asked.

    Attributes:
        results: for each container whether it is unmounted, or why not.
    """

    results: tuple[Ok | Failed, ...]


class Start(Wrapper, frozen=True):
    """Ok: the payload's execve succeeded.

    Attributes:
        result: whether it is started, or why not.
    """

    result: Ok | Failed


class Kill(Wrapper, frozen=True):
    """Ok: the signal was sent.

    Attributes:
        result: whether the signal was sent, or why not.
    """

    result: Ok | Failed


class Install(Wrapper, frozen=True):
    """Ok names the container that was in the package.

    Attributes:
        result: the container that is installed, or why it is not.
    """

    result: Ok | InstallFailed


class Uninstall(Wrapper, frozen=True):
    """Ok: the package is gone.

    Attributes:
        result: whether it is removed, or why not.
    """

    result: Ok | Failed


class TokenCreate(Wrapper, frozen=True):
    """The token.

    Attributes:
        token: its 40 bytes.
    """

    TAG: ClassVar = "token"
    token: TokenBytes


class TokenVerify(Wrapper, frozen=True):
    """What the token is worth.

    Attributes:
        result: what the token is worth.
    """

    TAG: ClassVar = "token_verification"
    result: TokenResult


class PermissionDenied(Wrapper, frozen=True):
    """The connection lacks the permission that this request needs.

    Attributes:
        request: the request that is refused.
    """

    request: request.Request


Response = (
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
    | PermissionDenied
)
