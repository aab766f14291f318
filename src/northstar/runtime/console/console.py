"""The console: where clients from outside connect, and where containers' connections are served."""

from __future__ import annotations

import asyncio
import logging
import socket

from northstar.model import Container, Permissions
from northstar.runtime.config import ConsoleOptions, GlobalConsole, TcpAddress, UnixAddress
from northstar.runtime.console.acceptor import Acceptor, Blocking, open_listener
from northstar.runtime.console.connection import CONNECT_TIMEOUT, Access, Connection, Service
from northstar.runtime.console.dispatch import EXTERN, Dispatcher, Operations, Peer
from northstar.runtime.console.tokens import Tokens
from northstar.runtime.console.turns import Turns
from northstar.runtime.events import Notifications

log = logging.getLogger("northstar.runtime.console")


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
        self._service = Service(
            dispatcher, notifications, Turns(), lambda: self._running, self._came, self._gone
        )
        self._connect_timeout = connect_timeout
        self._running = False
        self._closed = False
        self._connections: set[Connection] = set()
        self._acceptor: Acceptor | None = None
        self._attaching: set[asyncio.Task[None]] = set()

    async def listen(
        self, config: GlobalConsole, blocking: Blocking = asyncio.to_thread
    ) -> TcpAddress | UnixAddress:
        """Listen as configured, and return the address (with the port that the kernel chose).

        Args:
            config: where, and what may be asked there.
            blocking: calls what blocks in a thread.

        Raises:
            ConsoleError: the address is taken, unknown or not ours to take.
            ConfigurationError: there is no such group.
        """
        listener = await open_listener(config, blocking)
        access = Access(config.permissions, config.options, self._connect_timeout)

        def accepted(sock: socket.socket) -> None:
            task = asyncio.create_task(self._attach(sock, Connection(self._service, access)))
            self._attaching.add(task)
            task.add_done_callback(self._attaching.discard)

        self._acceptor = Acceptor(listener, accepted)
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

        Raises:
            OSError: there is no room for it.
        """
        if container.name == EXTERN.name:
            log.warning(
                "%s: its tokens are not valid: to others `%s` means clients from outside",
                container,
                EXTERN.name,
            )
        access = Access(permissions, options, None)
        connection = Connection(self._service, access, Peer(container))
        await self._attach(sock, connection)
        if connection.unwatched is not None:
            raise connection.unwatched
        return connection

    def run(self) -> None:
        """Work off requests from now on."""
        self._running = True
        for connection in tuple(self._connections):
            connection.advance()

    def stop_listening(self) -> None:
        """Take no more connections. Those that are there stay."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None

    async def close(self, patience: float = 1.0) -> None:
        """Close everything; answers that were not read yet are given `patience` seconds."""
        self.stop_listening()
        self._closed = True
        if self._attaching:
            await asyncio.wait(self._attaching)
        connections = tuple(self._connections)
        for connection in connections:
            connection.close()
        waits = [asyncio.ensure_future(connection.wait_closed()) for connection in connections]
        if waits:
            _, late = await asyncio.wait(waits, timeout=patience)
            if late:
                for connection in connections:
                    connection.abort()
                # A cancelled install removes its file, on a disk that may not answer.
                await asyncio.wait(late, timeout=patience)

    async def _attach(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            sock.close()
            raise

    def _came(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._closed:
            # It came from a container whose start was under way.
            connection.close()

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
