"""The console: where clients from outside connect, and where containers' connections are served."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from typing import Any, Final

from northstar.model import Container, NorthstarError, Permissions
from northstar.runtime.config import ConsoleOptions, GlobalConsole, TcpAddress, UnixAddress
from northstar.runtime.connection import CONNECT_TIMEOUT, Access, Connection, Service
from northstar.runtime.dispatch import Dispatcher, Installation, Operations, Peer
from northstar.runtime.events import Notifications
from northstar.runtime.tokens import Tokens

__all__ = ["Console", "ConsoleError", "Installation", "Operations"]

log = logging.getLogger("northstar.runtime.console")

BACKLOG: Final = 128


class ConsoleError(NorthstarError):
    """The console cannot listen."""


class Console:
    """All connections. Requests wait until `run`; notifications go out at any time."""

    def __init__(
        self,
        operations: Operations,
        notifications: Notifications,
        tokens: Tokens | None = None,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        """Serve `operations`; nothing listens yet.

        Args:
            operations: what requests ask for.
            notifications: what clients may subscribe to.
            tokens: for tests with a clock of their own.
            connect_timeout: seconds that a peer from outside has for its first message.
        """
        dispatcher = Dispatcher(operations, tokens or Tokens())
        self._service = Service(dispatcher, notifications, lambda: self._running, self._gone)
        self._connect_timeout = connect_timeout
        self._running = False
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, config: GlobalConsole) -> TcpAddress | UnixAddress:
        """Listen as configured, and return the address (with the port that the kernel chose).

        Raises:
            ConsoleError: the address is taken, unknown or not ours to take.
        """
        listener = await _listener(config.bind)
        access = Access(config.permissions, config.options, self._connect_timeout)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: self._accept(Connection(self._service, access)),
            sock=listener,
            backlog=BACKLOG,
        )
        bound = config.bind
        if isinstance(bound, TcpAddress):
            bound = TcpAddress(*listener.getsockname()[:2])
        log.info("Listening on %s", bound)
        return bound

    async def adopt(
        self,
        sock: socket.socket,
        container: Container,
        permissions: Permissions,
        options: ConsoleOptions,
    ) -> Connection:
        """Serve a container on the runtime's end of a connected stream socket, which is ours now.

        The connection ends with the socket, or by its `close`.
        """
        access = Access(permissions, options, None)
        connection = self._accept(Connection(self._service, access, Peer(container)))
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            self._gone(connection)
            sock.close()
            raise
        return connection

    def run(self) -> None:
        """Work off requests from now on."""
        self._running = True
        for connection in tuple(self._connections):
            connection.advance()

    def stop_listening(self) -> None:
        """Take no more connections. Those that are there stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self, patience: float = 1.0) -> None:
        """Close everything; answers that were not read yet are given `patience` seconds."""
        self.stop_listening()
        connections = tuple(self._connections)
        for connection in connections:
            connection.close()
        waits = [asyncio.ensure_future(connection.wait_closed()) for connection in connections]
        if waits:
            _, late = await asyncio.wait(waits, timeout=patience)
            if late:
                for connection in connections:
                    connection.abort()
                await asyncio.wait(late)

    def _accept(self, connection: Connection) -> Connection:
        self._connections.add(connection)
        return connection

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)


async def _listener(bind: TcpAddress | UnixAddress) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConsoleError: there is none to be had.
    """
    if isinstance(bind, UnixAddress):
        _clear(bind.path)
        return _listening(socket.AF_UNIX, bind.path, bind)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConsoleError(
            f"the console cannot listen on {bind}: {error.strerror}",
            hint="check the host in console.global.bind",
        ) from error
    return _listening(found[0][0], found[0][4], bind)


def _listening(
    family: int, target: str | tuple[Any, ...], bind: TcpAddress | UnixAddress
) -> socket.socket:
    with contextlib.ExitStack() as stack:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            stack.callback(sock.close)
            if family != socket.AF_UNIX:
                # A restart must not wait for the connections of the last run to time out.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(target)
            sock.listen(BACKLOG)
        except OSError as error:
            # "AF_UNIX path too long" comes without an errno.
            reason = error.strerror or str(error)
            raise ConsoleError(
                f"the console cannot listen on {bind}: {reason}", hint=_hint(error, bind)
            ) from error
        stack.pop_all()
        return sock


_HINTS: Final = {
    errno.EADDRINUSE: "another runtime or program uses it: end that, or bind elsewhere",
    errno.EADDRNOTAVAIL: "this machine has no such address: check console.global.bind",
    errno.ENOENT: "make the directory of the socket",
    errno.EACCES: "run as root, or bind to an address that this user may take",
}


def _hint(error: OSError, bind: TcpAddress | UnixAddress) -> str:
    if error.errno is None:
        return f"choose a path shorter than 108 bytes ({bind} has more)"
    return _HINTS.get(error.errno, "check console.global.bind")


def _clear(path: str) -> None:
    """Remove the socket that an earlier run left at `path`; anything else is not ours to remove.

    Raises:
        ConsoleError: something else is there, or it cannot be removed.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConsoleError(
                f"the console cannot listen on {path}: a file that is no socket is in the way",
                hint="remove it, or bind elsewhere",
            )
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConsoleError(
            f"the console cannot listen on {path}: {error.strerror}",
            hint="bind to a path that this user may change",
        ) from error
