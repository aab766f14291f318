"""Executes a request and makes its response; maps failures to errors of the wire."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from northstar.api import request as requests
from northstar.api import response as responses
from northstar.api.codec import decode, decode_extended, encode
from northstar.api.error import Error, RefusedError, Unexpected
from northstar.api.message import Message
from northstar.api.request import Request
from northstar.api.response import (
    ExecOk,
    Failed,
    InstallFailed,
    Ok,
    Response,
    StatusOk,
    StopOk,
    UpdateOk,
)
from northstar.api.stream import TerminalSize
from northstar.model import Container, NorthstarError, Permissions, ProtocolError, cut, sentence
from northstar.runtime.console.channel import Channel
from northstar.runtime.console.incoming_package import IncomingPackage
from northstar.runtime.console.peer import Peer
from northstar.runtime.console.tokens import Tokens, named_party
from northstar.runtime.package_writer import IncomingWriter

if TYPE_CHECKING:
    from northstar.npk.keylist import KeyList
    from northstar.runtime.exec_session import Process

log = logging.getLogger("northstar.runtime.console")

SIGNALS: Final = range(1, 32)
MOUNTS_MAX: Final = 32
"""Mounts of one request that run concurrently: a request may name a hundred thousand."""
PREPARED: Final = 256
"""Requests of `SMALL` bytes at most that are kept decoded."""
SMALL: Final = 160
STATUS_BATCH: Final = 256
"""Containers of a status request that are processed before other connections are served."""


class Operations(Protocol):
    """The operations of the runtime that requests execute.

    A refusal is a `RefusedError` with the error of the wire. `list`, `repositories` and
    `shutdown` do not fail.
    """

    def list(self) -> tuple[Container, ...]:
        """Return all installed containers: the same tuple until that changes."""

    def repositories(self) -> Sequence[str]:
        """Return the names of all repositories."""

    def shutdown(self) -> None:
        """Begin the shutdown, and return at once."""

    def inspect(self, container: Container, *, service: bool) -> bytes:
        """Return the line with the data of the container, without waiting.

        `service`: with that section of its manifest.
        """

    def status(self, containers: Sequence[Container]) -> Sequence[StatusOk | Failed]:
        """Return the status of each container, in this order."""

    async def mount(self, container: Container) -> None:
        """Mount it."""

    async def umount(self, container: Container) -> None:
        """Unmount it."""

    async def start(
        self,
        container: Container,
        init: str | None,
        arguments: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        """Start it; a None or empty value means the manifest's."""

    async def kill(self, container: Container, signal: int) -> None:
        """Send a signal to its process group; `signal` is within 1..31."""

    async def stop(
        self,
        container: Container,
        timeout: int | None,  # noqa: ASYNC109 - a part of the request
    ) -> bool:
        """Stop it, with `timeout` ns instead of the manifest's; return whether it was killed."""

    async def restart(self, container: Container) -> None:
        """Stop it if it runs, and start it."""

    async def uninstall(self, container: Container, wipe: bool) -> None:
        """Remove it, with `wipe` its persistent data too."""

    async def execute(
        self,
        container: Container,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bool,
        terminal: TerminalSize | None,
        client: str,
    ) -> Process:
        """Execute a program in a started container for `client`, named for the log."""

    async def logs(self, request: requests.Logs, channel: Channel) -> None:
        """Send the messages of a request for the log of a container."""

    async def keys(self, repository: str, new: str | None) -> KeyList:
        """Return the key list of a repository, after replacing it by `new` unless that is None."""

    async def begin_install(self, repository: str, size: int) -> IncomingWriter[Container]:
        """Begin to store a package of `size` bytes."""

    async def begin_update(self, repository: str, size: int) -> IncomingWriter[UpdateOk]:
        """Begin an update with a package of `size` bytes; its commit is the end of the update."""


class Caller(NamedTuple):
    """The connection that a request was received on.

    Attributes:
        validity: seconds for which it accepts a token.
        extended: whether it is an extended connection.
    """

    peer: Peer
    validity: float
    extended: bool = False


class Immediate(NamedTuple):
    """A request that is answered without waiting.

    Attributes:
        handler: makes the response.
        then: called after the response was sent.
    """

    handler: Callable[[Any, Caller], Response]
    then: Callable[[], object] | None = None


class Encoded(NamedTuple):
    """A request that is answered without waiting, with parts that were encoded for earlier ones.

    Attributes:
        handler: returns the line of the response.
        turn: whether the next request of the same client waits until others are served.
    """

    handler: Callable[[Any, Caller], bytes]
    turn: bool = False


class Task(NamedTuple):
    """A request that is answered by a task, unless its answer need not wait.

    Attributes:
        handler: makes the response.
    """

    handler: Callable[[Any, Caller], Coroutine[Any, Any, Response]]


class Upload(NamedTuple):
    """A request that is followed by a package.

    Attributes:
        handler: reads the package, and makes the response.
        failed: makes the response of a failure.
    """

    handler: Callable[[Any, IncomingPackage], Awaitable[Response]]
    failed: Callable[[Error], Response]


class Exchange(NamedTuple):
    """A request that is answered by a task, which exchanges messages with the client before.

    Attributes:
        handler: makes the response.
        reads: it processes messages `stream` of the client.
    """

    handler: Callable[[Any, Caller, Channel], Awaitable[Response]]
    reads: bool


Route = Immediate | Encoded | Task | Upload | Exchange


class Prepared(NamedTuple):
    """A request that was decoded before.

    Attributes:
        request: the request.
        needed: the permissions that it needs.
        handler: returns the line of the response.
    """

    request: Request
    needed: Permissions
    handler: Callable[[Any, Caller], bytes]


Prepare = Callable[[bytes], Prepared | None]


class Dispatcher:
    """Executes requests.

    Attributes:
        routes: how each type of request is executed. The permissions that it needs are part of the
            protocol, which clients share: `api.request.permissions`.
        prepared: for a plain and for an extended connection, a function of the bytes that were
            read at once: it returns what they request if they are one line with a request whose
            route is `Encoded`, else None.
    """

    def __init__(self, operations: Operations, tokens: Tokens) -> None:
        self._operations = operations
        self._tokens = tokens
        self._listed: tuple[Container, ...] | None = None
        self._list_line = b""
        # By whether the connection is extended.
        self.prepared: Final[tuple[Prepare, Prepare]] = (
            functools.lru_cache(PREPARED)(functools.partial(self._prepare, decode)),
            functools.lru_cache(PREPARED)(functools.partial(self._prepare, decode_extended)),
        )
        self.routes: Final[Mapping[type, Route]] = {
            requests.Ident: Encoded(self._ident),
            requests.List: Encoded(self._list),
            # With a process it takes as long as many other requests.
            requests.Inspect: Encoded(self._inspect, turn=True),
            requests.Repositories: Immediate(self._repositories),
            # The response comes first: the notification of the shutdown goes to this client too.
            requests.Shutdown: Immediate(self._shutdown, then=operations.shutdown),
            requests.TokenCreate: Immediate(self._token_create),
            requests.TokenVerify: Immediate(self._token_verify),
            requests.Mount: Task(self._mount),
            requests.Umount: Task(self._umount),
            requests.Start: Task(self._start),
            requests.Kill: Task(self._kill),
            requests.Uninstall: Task(self._uninstall),
            # Only extended connections read the following requests.
            requests.Status: Task(self._status),
            requests.Stop: Task(self._stop),
            requests.Restart: Task(self._restart),
            requests.Exec: Exchange(self._exec, reads=True),
            requests.Logs: Exchange(self._logs, reads=False),
            requests.Keys: Task(self._keys),
            requests.Update: Upload(self._update, _update_failed),
            requests.Install: Upload(self._install, _install_failed),
        }

    def _prepare(self, decoder: Callable[[bytes], Message | None], read: bytes) -> Prepared | None:
        if read.find(b"\n") != len(read) - 1:
            return None
        try:
            message = decoder(read)
        except ProtocolError:
            return None  # the connection reports it
        route = self.routes.get(type(message))
        if not isinstance(route, Encoded):
            return None
        request = cast("Request", message)
        return Prepared(request, requests.permissions(request), route.handler)

    # Without waiting

    def _ident(self, _request: Request, caller: Caller) -> bytes:
        return _ident_line(caller.peer.container)

    def _list(self, _request: Request, _caller: Caller) -> bytes:
        found = self._operations.list()
        if found is not self._listed:
            self._list_line = encode(responses.List(found))
            self._listed = found
        return self._list_line

    def _inspect(self, request: requests.Inspect, caller: Caller) -> bytes:
        container = request.container
        try:
            return self._operations.inspect(container, service=caller.extended)
        except Exception as error:
            failed = Failed(container, wire_error(error, f"inspect {container}"))
            return encode(responses.Inspect(failed))

    def _repositories(self, _request: Request, _caller: Caller) -> Response:
        return responses.Repositories(tuple(self._operations.repositories()))

    def _shutdown(self, _request: Request, _caller: Caller) -> Response:
        return responses.Shutdown()

    def _token_create(self, request: requests.TokenCreate, caller: Caller) -> Response:
        target = named_party(request.target)
        return responses.TokenCreate(self._tokens.create(caller.peer.party, target, request.shared))

    def _token_verify(self, request: requests.TokenVerify, caller: Caller) -> Response:
        claimed = named_party(request.user)
        result = self._tokens.verify(
            request.token, claimed, caller.peer.party, request.shared, caller.validity
        )
        return responses.TokenVerify(result)

    # By a task

    async def _mount(self, request: requests.Mount, _caller: Caller) -> Response:
        results = await _for_each("mount", self._operations.mount, request.containers)
        return responses.Mount(results)

    async def _umount(self, request: requests.Umount, _caller: Caller) -> Response:
        results = await _for_each("umount", self._operations.umount, request.containers)
        return responses.Umount(results)

    async def _start(self, request: requests.Start, _caller: Caller) -> Response:
        container = request.container
        start = self._operations.start(
            container, request.init, request.arguments, request.environment
        )
        return responses.Start(await _result("start", container, start))

    async def _kill(self, request: requests.Kill, _caller: Caller) -> Response:
        container, signal = request.container, request.signal
        if signal not in SIGNALS:
            text = (
                f"signal {signal} is not within {SIGNALS[0]}..{SIGNALS[-1]}; "
                "name one as TERM, or see signal(7)"
            )
            return responses.Kill(Failed(container, Unexpected(text)))
        kill = self._operations.kill(container, signal)
        return responses.Kill(await _result("kill", container, kill))

    async def _uninstall(self, request: requests.Uninstall, _caller: Caller) -> Response:
        container = request.container
        uninstall = self._operations.uninstall(container, request.wipe)
        return responses.Uninstall(await _result("uninstall", container, uninstall))

    async def _status(self, request: requests.Status, _caller: Caller) -> Response:
        containers = request.containers or self._operations.list()
        results: list[StatusOk | Failed] = []
        for first in range(0, len(containers), STATUS_BATCH):
            if first:
                await asyncio.sleep(0)
            results += self._operations.status(containers[first : first + STATUS_BATCH])
        return responses.Status(tuple(results))

    async def _stop(self, request: requests.Stop, _caller: Caller) -> Response:
        container = request.container
        result: StopOk | Failed
        try:
            killed = await self._operations.stop(container, request.timeout)
            result = StopOk(container, killed)
        except Exception as error:
            result = Failed(container, wire_error(error, f"stop {container}"))
        return responses.Stop(result)

    async def _restart(self, request: requests.Restart, _caller: Caller) -> Response:
        container = request.container
        restart = self._operations.restart(container)
        return responses.Restart(await _result("restart", container, restart))

    async def _keys(self, request: requests.Keys, _caller: Caller) -> Response:
        from northstar.npk.keylist import key_id

        repository = request.repository
        result: responses.KeysOk | responses.KeysFailed
        try:
            found = await self._operations.keys(repository, request.list)
            listed = tuple(
                responses.ListedKey(key_id(key), responses.KeyUse(use.value))
                for key, use in found.keys
            )
            result = responses.KeysOk(repository, found.version, listed)
        except Exception as error:
            what = f"replace the key list of {repository}"
            result = responses.KeysFailed(wire_error(error, what))
        return responses.Keys(result)

    # With messages before the response

    async def _exec(self, request: requests.Exec, caller: Caller, channel: Channel) -> Response:
        from northstar.runtime.exec_session import converse

        container = request.container
        result: ExecOk | Failed
        try:
            process = await self._operations.execute(
                container,
                request.command,
                request.environment,
                stdin=request.stdin,
                terminal=request.tty,
                client=str(caller.peer),
            )
            del request
            channel.release_request()
            result = ExecOk(container, await converse(process, channel))
        except Exception as error:
            result = Failed(container, wire_error(error, f"execute a program in {container}"))
        return responses.Exec(result)

    async def _logs(self, request: requests.Logs, _caller: Caller, channel: Channel) -> Response:
        container = request.container
        logs = self._operations.logs(request, channel)
        return responses.Logs(await _result("read the log of", container, logs))

    # With a package

    async def _install(self, request: requests.Install, package: IncomingPackage) -> Response:
        what = f"install into {request.repository}"
        stored = await package.store(
            lambda: self._operations.begin_install(request.repository, request.size),
            lambda failure: _install_failed(wire_error(failure, what)),
        )
        return responses.Install(Ok(stored)) if isinstance(stored, Container) else stored

    async def _update(self, request: requests.Update, package: IncomingPackage) -> Response:
        what = f"update in {request.repository}"
        done = await package.store(
            lambda: self._operations.begin_update(request.repository, request.size),
            lambda failure: _update_failed(wire_error(failure, what)),
        )
        return responses.Update(done) if isinstance(done, UpdateOk) else done


@functools.lru_cache(maxsize=128)
def _ident_line(container: Container | None) -> bytes:
    return encode(responses.Ident(Peer(container).identity))


def _install_failed(error: Error) -> Response:
    return responses.Install(InstallFailed(error))


def _update_failed(error: Error) -> Response:
    return responses.Update(responses.UpdateFailed(error))


def wire_error(error: Exception, what: str) -> Error:
    """Return the error of the wire for an exception of an operation.

    An exception that is no refusal is a failure of the runtime, so it is logged too.
    """
    if isinstance(error, RefusedError):
        return error.error
    if isinstance(error, (NorthstarError, OSError)):
        log.error("Failed to %s: %s", what, sentence(error))
    else:
        log.error("Failed to %s", what, exc_info=error)
    return Unexpected(cut(sentence(error)))


async def _result(what: str, container: Container, operation: Awaitable[None]) -> Ok | Failed:
    try:
        await operation
    except Exception as error:
        return Failed(container, wire_error(error, f"{what} {container}"))
    return Ok(container)


async def _for_each(
    what: str,
    operation: Callable[[Container], Awaitable[None]],
    containers: Sequence[Container],
) -> tuple[Ok | Failed, ...]:
    """Run `operation` on all containers concurrently; the results are in their order."""
    if len(containers) == 1:  # the usual case, which needs no additional tasks
        (container,) = containers
        return (await _result(what, container, operation(container)),)
    results: list[Ok | Failed] = []
    for first in range(0, len(containers), MOUNTS_MAX):
        batch = containers[first : first + MOUNTS_MAX]
        results += await asyncio.gather(*(_result(what, c, operation(c)) for c in batch))
    return tuple(results)
