"""From a request to its response: what the console asks of the runtime, and how failures answer."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from northstar.api import request as requests
from northstar.api import response as responses
from northstar.api.error import Error, RefusedError, Unexpected
from northstar.api.request import Request
from northstar.api.response import ContainerData, Failed, InspectOk, InstallFailed, Ok, Response
from northstar.model import Container, Name, NorthstarError, Version
from northstar.runtime.console.tokens import Tokens

log = logging.getLogger("northstar.runtime.console")

EXTERN: Final = Container(Name("extern"), Version(0, 0, 0))
"""How connections from outside are called: containers have names of their own."""

SIGNALS: Final = range(1, 32)
MOUNTS_MAX: Final = 32
"""Mounts of one request that run at the same time: a request may name a hundred thousand."""

T = TypeVar("T")


class Installation(Protocol):
    """A package that is being received.

    `abort` is called whenever `commit` did not succeed, also after a failure of `write` or
    `commit` itself; it may be called twice and leaves nothing behind.
    """

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    async def commit(self) -> Container:
        """Verify what came and make it an installed container."""

    async def abort(self) -> None:
        """Remove what came."""


class Operations(Protocol):
    """What the console asks of the runtime.

    A refusal is a `RefusedError` with the error of the wire. `list`, `repositories` and
    `shutdown` do not fail.
    """

    def list(self) -> list[Container]:
        """Return all installed containers."""

    def repositories(self) -> Sequence[str]:
        """Return the names of all repositories."""

    def shutdown(self) -> None:
        """Begin the shutdown, and return at once."""

    async def inspect(self, container: Container) -> ContainerData:
        """Return what is known of the container."""

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
        """Start it; what is None or empty means the manifest's."""

    async def kill(self, container: Container, signal: int) -> None:
        """Signal its process group; `signal` is within 1..31."""

    async def uninstall(self, container: Container, wipe: bool) -> None:
        """Remove it, with `wipe` its persistent data too."""

    async def begin_install(self, repository: str, size: int) -> Installation:
        """Begin to receive a package of `size` bytes."""


class Peer(NamedTuple):
    """Who is at the other end: a container, or an address as `tcp://1.2.3.4:5`."""

    container: Container | None
    address: str = ""

    @property
    def identity(self) -> Container:
        """What the peer is told it is."""
        return self.container or EXTERN

    def __str__(self) -> str:
        return f"Container({self.container})" if self.container else f"Remote({self.address})"


def address(peername: object) -> str:
    """Return the address in a socket's peer name as a URL."""
    match peername:
        case (str() as host, int() as port, *_):
            return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        case str() as path if path:
            return f"unix://{path}"
        case bytes() as name if name:
            return f"unix://@{name.lstrip(bytes(1)).decode(errors='backslashreplace')}"
        case _:
            return "unix://unnamed"


def owner(sock: socket.socket) -> Hashable:
    """Return who is at the other end: the process (unix(7), SO_PEERCRED), or the host."""
    if sock.family == socket.AF_UNIX:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return None  # it is gone already


class Dispatcher:
    """Executes requests whose permission was checked. Only installs are the connection's own."""

    def __init__(self, operations: Operations, tokens: Tokens) -> None:
        self.operations = operations
        self._tokens = tokens
        run: dict[type, Callable[..., Awaitable[Response]]] = {
            requests.Inspect: self._inspect,
            requests.Mount: self._mount,
            requests.Umount: self._umount,
            requests.Start: self._start,
            requests.Kill: self._kill,
            requests.Uninstall: self._uninstall,
        }
        self._run = run

    def immediate(self, request: Request, peer: Peer, validity: float) -> Response | None:
        """Return the response to a request that needs no waiting, None for the others.

        Args:
            request: any request.
            peer: who asks.
            validity: of tokens on this connection, in seconds.
        """
        match request:
            case requests.Ident():
                return responses.Ident(peer.identity)
            case requests.List():
                return responses.List(tuple(self.operations.list()))
            case requests.Repositories():
                return responses.Repositories(tuple(self.operations.repositories()))
            case requests.TokenCreate(target, shared):
                token = self._tokens.create(peer.identity.name, target, shared)
                return responses.TokenCreate(token)
            case requests.TokenVerify(token, user, shared):
                target = peer.identity.name
                result = self._tokens.verify(token, user, target, shared, validity)
                return responses.TokenVerify(result)
            case _:
                return None

    async def run(self, request: Request) -> Response:
        """Return the response to one of the other requests; failures are responses too."""
        return await self._run[type(request)](request)

    async def _inspect(self, request: requests.Inspect) -> Response:
        container = request.container
        result: InspectOk | Failed
        try:
            result = InspectOk(container, await self.operations.inspect(container))
        except Exception as error:
            result = Failed(container, wire_error(error, f"inspect {container}"))
        return responses.Inspect(result)

    async def _mount(self, request: requests.Mount) -> Response:
        results = await _each("mount", self.operations.mount, request.containers)
        return responses.Mount(results)

    async def _umount(self, request: requests.Umount) -> Response:
        results = await _each("umount", self.operations.umount, request.containers)
        return responses.Umount(results)

    async def _start(self, request: requests.Start) -> Response:
        container = request.container
        start = self.operations.start(
            container, request.init, request.arguments, request.environment
        )
        return responses.Start(await _result("start", container, start))

    async def _kill(self, request: requests.Kill) -> Response:
        container, signal = request.container, request.signal
        if signal not in SIGNALS:
            text = f"signal {signal} is not within {SIGNALS[0]}..{SIGNALS[-1]}"
            return responses.Kill(Failed(container, Unexpected(text)))
        kill = self.operations.kill(container, signal)
        return responses.Kill(await _result("kill", container, kill))

    async def _uninstall(self, request: requests.Uninstall) -> Response:
        container = request.container
        uninstall = self.operations.uninstall(container, request.wipe)
        return responses.Uninstall(await _result("uninstall", container, uninstall))


async def install_result(installation: Installation, repository: str) -> Ok | InstallFailed:
    """Commit, and return how it went."""
    try:
        return Ok(await installation.commit())
    except Exception as error:
        return InstallFailed(wire_error(error, f"install into {repository}"))


def wire_error(error: Exception, what: str) -> Error:
    """Return the error of the wire for what an operation raised.

    What is no refusal is our failure, not the client's: it is in the log as well.
    """
    if isinstance(error, RefusedError):
        return error.error
    if isinstance(error, (NorthstarError, OSError)):
        log.error("Failed to %s: %s", what, error)
        return Unexpected(str(error))
    log.error("Failed to %s", what, exc_info=error)
    return Unexpected(f"{type(error).__name__}: {error}")


async def _result(what: str, container: Container, operation: Awaitable[None]) -> Ok | Failed:
    try:
        await operation
    except Exception as error:
        return Failed(container, wire_error(error, f"{what} {container}"))
    return Ok(container)


async def _each(
    what: str,
    operation: Callable[[Container], Awaitable[None]],
    containers: Sequence[Container],
) -> tuple[Ok | Failed, ...]:
    """Run `operation` on all containers at once; the results are in their order."""
    if len(containers) == 1:  # the usual case, which needs no further tasks
        (container,) = containers
        return (await _result(what, container, operation(container)),)
    results: list[Ok | Failed] = []
    for first in range(0, len(containers), MOUNTS_MAX):
        batch = containers[first : first + MOUNTS_MAX]
        results += await asyncio.gather(*(_result(what, c, operation(c)) for c in batch))
    return tuple(results)
