"""The console: accepts clients from outside, and serves them and the containers' connections."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from typing import Final

from northstar.model import Container, Permissions
from northstar.model.loop_deadline import wait
from northstar.runtime.config import ConsoleOptions, GlobalConsole, TcpAddress, UnixAddress
from northstar.runtime.console.acceptor import Acceptor, Blocking, open_listener
from northstar.runtime.console.connection import CONNECT_TIMEOUT, Access, Connection, Service
from northstar.runtime.console.dispatch import Dispatcher, Operations
from northstar.runtime.console.fair_queue import FairQueue
from northstar.runtime.console.incoming_package import READ
from northstar.runtime.console.memory import Memory
from northstar.runtime.console.peer import EXTERN, Peer
from northstar.runtime.console.tokens import Tokens
from northstar.runtime.notifications import Notifications

log = logging.getLogger("northstar.runtime.console")

CONNECTIONS: Final = 4096
"""Maximum number of connections from outside; also limited to half of RLIMIT_NOFILE. Further ones
wait in the backlog. A container has only one connection."""


class Console:
    """All connections. Requests wait until `run`; notifications are sent at any time."""

    def __init__(
        self,
        operations: Operations,
        notifications: Notifications,
        tokens: Tokens | None = None,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        """Prepare; `listen` opens the socket.

        Args:
            operations: executes the requests.
            notifications: the source that clients may subscribe to.
            tokens: replaced by tests that control the clock.
            connect_timeout: seconds in which a client from outside must send its first message.
        """
        dispatcher = Dispatcher(operations, tokens or Tokens())
        self._service = Service(
            dispatcher,
            notifications,
            FairQueue(),
            lambda: self._running,
            self._add,
            self._remove,
            memoryview(bytearray(READ)),
        )
        self._outside, self._containers = Memory(), Memory()
        self._connect_timeout = connect_timeout
        self._running = False
        self._closed = False
        self._connections: set[Connection] = set()
        self._from_outside = 0
        self._acceptor: Acceptor | None = None
        self._attaching: set[asyncio.Task[None]] = set()

    async def listen(
        self, config: GlobalConsole, blocking: Blocking = asyncio.to_thread
    ) -> TcpAddress | UnixAddress:
        """Listen as configured, and return the address (with the port that the kernel chose).

        Args:
            config: the address, and the permissions and limits of its clients.
            blocking: calls blocking functions in a thread.

        Raises:
            ConsoleError: the address is in use, unknown or not permitted.
            ConfigurationError: the group does not exist.
        """
        listener = await open_listener(config, blocking)
        access = Access(config.permissions, config.options, self._connect_timeout, self._outside)

        def accepted(sock: socket.socket) -> None:
            task = asyncio.create_task(self._attach(sock, Connection(self._service, access)))
            self._attaching.add(task)
            task.add_done_callback(self._attached)

        limit = min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

        def may_accept() -> bool:
            return self._from_outside + len(self._attaching) < limit

        self._acceptor = Acceptor(listener, accepted, may_accept)
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
        """Serve a container on `sock`, the runtime's end of a connected stream socket.

        The socket is owned by the connection, which ends when the container closes its end, or by
        `Connection.close`.

        Raises:
            OSError: the socket cannot be watched (epoll_ctl(2)).
        """
        if container.name == EXTERN.name:
            log.warning(
                "%s: its tokens are not valid, since `%s` stands for clients from outside",
                container,
                EXTERN.name,
            )
        access = Access(permissions, options, None, self._containers)
        connection = Connection(self._service, access, Peer(container))
        await self._attach(sock, connection)
        if connection.unwatched is not None:
            raise connection.unwatched
        return connection

    def run(self) -> None:
        """Process requests from now on."""
        self._running = True
        for connection in tuple(self._connections):
            connection.advance()

    def stop_listening(self) -> None:
        """Accept no more connections. Existing ones stay."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None

    async def close(self, grace_period: float = 1.0) -> None:
        """Close everything; answering, reading, aborting take up to `grace_period` seconds each."""
        self.stop_listening()
        self._closed = True
        if self._attaching:
            await asyncio.wait(self._attaching)
        connections = tuple(self._connections)
        # The operations have ended: each answer needs a few more passes of the event loop.
        answering = [connection.answering for connection in connections]
        await wait([task for task in answering if task is not None], grace_period)
        for connection in connections:
            connection.close()
        waits = [asyncio.ensure_future(connection.wait_closed()) for connection in connections]
        _, late = await wait(waits, grace_period)
        if late:
            for connection in connections:
                connection.abort()
            # A cancelled install removes its file, on a disk that may not answer.
            await asyncio.wait(late, timeout=grace_period)

    async def _attach(self, sock: socket.socket, connection: Connection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            sock.close()
            raise

    def _attached(self, task: asyncio.Task[None]) -> None:
        self._attaching.discard(task)
        self._advance_acceptor()

    def _advance_acceptor(self) -> None:
        if self._acceptor is not None:
            self._acceptor.advance()

    def _add(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._from_outside += connection.peer.container is None
        if self._closed:
            # It belongs to a container that was being started.
            connection.close()

    def _remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._from_outside -= connection.peer.container is None
        self._advance_acceptor()
