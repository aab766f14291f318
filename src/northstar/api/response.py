"""The answers of the runtime, one to each request."""

from __future__ import annotations

import enum
from typing import ClassVar

from northstar.api import request
from northstar.api.error import Error
from northstar.api.shape import U32, U64, Body, JsonObject, Record, TokenBytes, Wrapper
from northstar.api.status import Status as ContainerStatus
from northstar.model import Container, ExitStatus


class Process(Body, frozen=True, rename={"uptime_ns": "uptime"}):
    """The process of a started container.

    Attributes:
        pid: PID of the container's init in the host's PID namespace.
        uptime_ns: nanoseconds since the start.
        statistics: statistics of the container's cgroups: members `memory`, `cpu`, `blkio`,
            `pids`, `cpuacct` (cgroup v1), each only if its controller is available.
    """

    pid: U32
    uptime_ns: U64
    statistics: JsonObject


class ContainerData(Body, frozen=True):
    """Manifest and state of an installed container.

    Attributes:
        manifest: the manifest in its serialised form. A dict, not a `Manifest`, so that clients
            can read the answer of a runtime of another version.
        repository: the repository of its package.
        mounted: whether its image is mounted.
        process: its process; null if it is not started.
    """

    manifest: JsonObject
    repository: str
    mounted: bool
    process: Process | None


class Ok(Record, frozen=True):
    """The request succeeded.

    Attributes:
        container: the container of the request.
    """

    container: Container


class InspectOk(Record, frozen=True):
    """The answer to an inspect request.

    Attributes:
        container: its name and version.
        data: its manifest and state.
    """

    TAG: ClassVar = "ok"
    container: Container
    data: ContainerData


class Failed(Record, frozen=True):
    """The request failed.

    Attributes:
        container: the container of the request.
        error: the reason.
    """

    TAG: ClassVar = "error"
    container: Container
    error: Error


class InstallFailed(Record, frozen=True):
    """The package is not installed.

    Attributes:
        error: the reason.
    """

    TAG: ClassVar = "error"
    error: Error


class TokenResult(enum.Enum):
    """The result of the verification of a token.

    Attributes:
        OK: `user` created it for this client, with these bytes, and it has not expired.
        INVALID: it is not a token, or was created by or for another client, or with other bytes.
        EXPIRED: it is older than the runtime's `token_validity`.
        FUTURE: its time of creation is in the future: the clock was set back.
    """

    OK = "Ok"
    INVALID = "Invalid"
    EXPIRED = "Expired"
    FUTURE = "Future"


class Ident(Wrapper, frozen=True):
    """The container of the client.

    Attributes:
        container: its name and version; `extern:0.0.0` for a client outside of containers.
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
        names: their names in the runtime's configuration.
    """

    names: tuple[str, ...]


class Shutdown(Record, frozen=True):
    """The shutdown begins."""


class Inspect(Wrapper, frozen=True):
    """Manifest and state of a container.

    Attributes:
        result: the data, or the reason of the failure.
    """

    result: InspectOk | Failed


class Mount(Wrapper, frozen=True):
    """A result for each container, in the order of the request.

    Attributes:
        results: Ok if the container is mounted, else the reason of the failure.
    """

    results: tuple[Ok | Failed, ...]


class Umount(Wrapper, frozen=True):
    """A result for each container, in the order of the request.

    Attributes:
        results: Ok if the container is unmounted, else the reason of the failure.
    """

    results: tuple[Ok | Failed, ...]


class Start(Wrapper, frozen=True):
    """Ok: the payload's execve succeeded.

    Attributes:
        result: Ok, or the reason of the failure.
    """

    result: Ok | Failed


class Kill(Wrapper, frozen=True):
    """Ok: the signal was sent.

    Attributes:
        result: Ok, or the reason of the failure.
    """

    result: Ok | Failed


class Install(Wrapper, frozen=True):
    """Ok names the container that was in the package.

    Attributes:
        result: the installed container, or the reason of the failure.
    """

    result: Ok | InstallFailed


class Uninstall(Wrapper, frozen=True):
    """Ok: the package is removed.

    Attributes:
        result: Ok, or the reason of the failure.
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
    """The result of the verification of a token.

    Attributes:
        result: whether the token is valid.
    """

    TAG: ClassVar = "token_verification"
    result: TokenResult


class StatusOk(Record, frozen=True):
    """The status of a container.

    Attributes:
        container: its name and version.
        status: its status.
    """

    TAG: ClassVar = "ok"
    container: Container
    status: ContainerStatus


class StopOk(Record, frozen=True):
    """The container has ended, or was not running.

    Attributes:
        container: its name and version.
        killed: whether it did not end in time, and SIGKILL was sent.
    """

    TAG: ClassVar = "ok"
    container: Container
    killed: bool


class Status(Wrapper, frozen=True):
    """A result for each container, in the order of the request.

    Attributes:
        results: the status, or the reason of the failure.
    """

    results: tuple[StatusOk | Failed, ...]


class Stop(Wrapper, frozen=True):
    """Ok: the container has ended.

    Attributes:
        result: Ok, or the reason of the failure.
    """

    result: StopOk | Failed


class Restart(Wrapper, frozen=True):
    """Ok: the container was stopped if it ran, and the execve of its new run succeeded.

    Attributes:
        result: Ok, or the reason of the failure.
    """

    result: Ok | Failed


class ExecOk(Record, frozen=True):
    """The process has ended, and all of its output was sent.

    Attributes:
        container: its name and version.
        status: its exit code, or the signal that terminated it.
    """

    TAG: ClassVar = "ok"
    container: Container
    status: ExitStatus


class Exec(Wrapper, frozen=True):
    """Ok: the program was executed, and has ended.

    Attributes:
        result: its exit status, or why it could not be executed.
    """

    result: ExecOk | Failed


class Logs(Wrapper, frozen=True):
    """Ok: all messages `log` were sent.

    Attributes:
        result: Ok, or the reason of the failure.
    """

    result: Ok | Failed


class UpdateOk(Record, frozen=True):
    """The new version has passed its trial, and the former one is removed.

    Attributes:
        container: the new version.
        previous: the version that it has replaced.
    """

    TAG: ClassVar = "ok"
    container: Container
    previous: Container


class UpdateFailed(Record, frozen=True):
    """The update was refused, or was rolled back.

    Attributes:
        error: the reason.
    """

    TAG: ClassVar = "error"
    error: Error


class Update(Wrapper, frozen=True):
    """Ok: the app is updated.

    Attributes:
        result: both versions, or the reason of the failure.
    """

    result: UpdateOk | UpdateFailed


class KeyUse(enum.Enum):
    """What a key of a list verifies.

    Attributes:
        INSTALL: all packages.
        LOAD: only packages that are in the repository already: the key is retired.
    """

    INSTALL = "install"
    LOAD = "load"


class ListedKey(Body, frozen=True):
    """A key of a list.

    Attributes:
        id: the first 16 hex digits of the SHA-256 of the public key.
        use: what it verifies.
    """

    id: str
    use: KeyUse


class KeysOk(Record, frozen=True):
    """The key list of a repository.

    Attributes:
        repository: the name of the repository.
        version: the version of its list.
        keys: the keys of the list.
    """

    TAG: ClassVar = "ok"
    repository: str
    version: U64
    keys: tuple[ListedKey, ...]


class KeysFailed(Record, frozen=True):
    """The list was not replaced, or there is none.

    Attributes:
        error: the reason.
    """

    TAG: ClassVar = "error"
    error: Error


class Keys(Wrapper, frozen=True):
    """Ok names the keys of the list that is now in use.

    Attributes:
        result: the list, or the reason of the failure.
    """

    result: KeysOk | KeysFailed


class PermissionDenied(Wrapper, frozen=True):
    """The connection lacks a permission for this request.

    Attributes:
        request: the refused request.
    """

    request: request.Request


PlainResponse = (
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
"""The responses on every connection."""

Response = PlainResponse | Status | Stop | Restart | Exec | Logs | Update | Keys
"""The responses on an extended connection."""
