"""The asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import socket
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from northstar.api import request, response
from northstar.api.feature import EXEC, LOGS, UPDATE
from northstar.api.log import Log, LogStream
from northstar.api.notification import Notification
from northstar.client import address, reading
from northstar.client.errors import ConnectError, DisconnectedError, reason
from northstar.client.operations import AsyncOperations
from northstar.client.package import (
    CHUNK,
    AsyncReadable,
    Path,
    Progress,
    Readable,
    named,
    opened,
    truncated_error,
)
from northstar.client.session import TIMEOUT, Call, Session, Trace
from northstar.client.steps import Ask, Send, Sleep, Step, Steps, Wait, container_in, versions_in
from northstar.model import Container, InvalidValueError, NorthstarError, ProtocolError
from northstar.model.loop_deadline import timeout as time_limit

if TYPE_CHECKING:
    from northstar.client.async_process import Process, Wire
    from northstar.client.process import Completed

T = TypeVar("T")
R = TypeVar("R", bound=response.Response)

UNREAD_MAX: Final = 64
"""Messages with output of a process that are received before they are read. Then nothing more is
received, which holds up the process."""

RETRY: Final = 0.01
"""Seconds between attempts to connect to a Unix socket whose backlog is full."""


class Client(AsyncOperations):
    """A connection to the console; made by `connect` or `from_env`.

    Several tasks may use it concurrently: their requests are sent and answered in the order of the
    calls. Every request can be cancelled, also by a timeout: its answer is dropped. Cancelling an
    install before the whole package is sent closes the connection, since the runtime would read the
    next request as a part of the package.

    Every method that sends a request may also raise: RefusedError, PermissionDeniedError,
    DisconnectedError, ProtocolError.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._session = connection.session
        # Held while a package is sent: nothing else may be sent between its bytes.
        self._sending = asyncio.Lock()

    @classmethod
    async def connect(
        cls,
        url: str | None = None,
        *,
        subscribe: bool = False,
        extended: bool = True,
        timeout: float | None = TIMEOUT,  # noqa: ASYNC109 - it raises ConnectError
        trace: Trace | None = None,
    ) -> Self:
        """Connect to `tcp://host[:port]` or `unix:///path`.

        Args:
            url: the address of the console; by default the value of NORTHSTAR_URL, else
                `unix:///run/northstar/console` if it exists, else `tcp://localhost:4200`.
            subscribe: subscribe to notifications; needs the permission `notifications`.
            extended: request an extended connection. A plain one has the requests and the
                notifications of Northstar 0.9.2, and no features.
            timeout: longest time until the runtime has accepted the connection, in seconds.
            trace: called with every line in both directions.

        Raises:
            InvalidValueError: the URL is none of these.
            ConnectError: no runtime listens there, or the peer is no runtime.
            RejectedError: the runtime rejects the connection.
        """
        url, chosen = (url, None) if url is not None else address.default()
        place = address.parse(url)
        loop = asyncio.get_running_loop()
        session = Session(subscribe=subscribe, extended=extended, trace=trace)
        connection = _Connection(session)
        try:
            async with time_limit(timeout):
                stream = await _connected(place)
                await loop.create_connection(lambda: connection, sock=stream)
                return await cls._greeted(connection)
        except TimeoutError:
            raise ConnectError(url, f"no answer within {timeout:g} s", chosen) from None
        except (OSError, UnicodeError) as error:
            # UnicodeError: a host name that IDNA encoding does not allow.
            raise ConnectError(url, reason(error), chosen) from None
        except (DisconnectedError, ProtocolError) as error:
            raise ConnectError(url, error.message, chosen) from None

    @classmethod
    async def from_env(cls, *, subscribe: bool = False, extended: bool = True) -> Self:
        """Return a client on this container's console connection (NORTHSTAR_CONSOLE).

        A container has one such connection: it is closed with the client.

        Raises:
            InvalidValueError: this is no container, or it has no console.
            RejectedError: the runtime rejects the connection.
        """
        stream = address.environment_socket()
        connection = _Connection(Session(subscribe=subscribe, extended=extended))
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, sock=stream)
        except BaseException:
            stream.close()
            raise
        return await cls._greeted(connection)

    @classmethod
    async def _greeted(cls, connection: _Connection) -> Self:
        try:
            connection.write(connection.session.connect())
            await connection.wait(lambda: connection.session.connected)
        except BaseException:
            connection.abort(DisconnectedError("the connection was not made"))
            await connection.closed.wait()
            raise
        return cls(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; requests in progress fail. Idempotent."""
        self._connection.abort(DisconnectedError("the connection was closed by this client"))
        await self._connection.closed.wait()

    async def install(
        self,
        package: Path | bytes | Readable | AsyncReadable,
        repository: str,
        *,
        size: int | None = None,
        progress: Progress | None = None,
    ) -> Container:
        """Install a package. Other requests wait until it is sent.

        Args:
            package: a path, the bytes, or a readable object, whose `size` must be given.
            repository: the name of the repository.
            size: of the package, in bytes.
            progress: called after each chunk.

        Raises:
            OSError: the package cannot be read. If a part of it was sent, the connection is
                closed, since the runtime waits for the remaining bytes.
        """
        call = await self._send_package(
            lambda total: request.Install(repository, total), package, size, progress
        )
        with named(package):
            return container_in(await self._answer(call, response.Install))

    async def update(
        self,
        package: Path | bytes | Readable | AsyncReadable,
        repository: str,
        *,
        size: int | None = None,
        progress: Progress | None = None,
    ) -> response.UpdateOk:
        """Replace an app by the newer version in a package, and wait for the end of its trial.

        Other requests of this connection are answered after it. The runtime goes on with the update
        if this is cancelled after the whole package was sent. The notifications `update` describe
        its progress.

        Args:
            package: a path, the bytes, or a readable object, whose `size` must be given.
            repository: the name of the repository of both versions.
            size: of the package, in bytes.
            progress: called after each chunk.

        Raises:
            MissingFeatureError: the runtime does not have the feature `update`.
            RefusedError: it was refused, or was rolled back.
            OSError: the package cannot be read, as in `install`.
        """
        self._session.require(UPDATE)
        call = await self._send_package(
            lambda total: request.Update(repository, total), package, size, progress
        )
        with named(package):
            return versions_in(await self._answer(call, response.Update))

    async def exec(
        self,
        container: Container | str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        stdin: bool = True,
        tty: tuple[int, int] | None = None,
    ) -> Process:
        """Execute a program in a started container, beside its payload, and return the process.

        Until it has ended this connection takes no other request.

        Args:
            container: the container.
            command: the program, a path in the container, and its arguments.
            environment: added to that of the manifest.
            stdin: whether it has an input; else its input is empty.
            tty: rows and columns of its terminal; None for pipes.

        Raises:
            InvalidValueError: the command is a str; or a process is being executed already.
            MissingFeatureError: the runtime does not have the feature `exec`.
        """
        from northstar.client import process
        from northstar.client.async_process import Process

        self._session.require(EXEC)
        [target] = await self.resolve(container)
        message = process.exec_request(target, command, environment, stdin, tty)
        call = await self._request(message)
        return Process(self._connection.wire(), call)

    async def run(
        self,
        container: Container | str,
        command: Sequence[str],
        input: bytes = b"",  # noqa: A002 - as subprocess.run
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Execute a program in a started container; return its exit status and its output.

        If this is cancelled, the connection is closed, which ends the process.

        Args:
            container: the container.
            command: the program, a path in the container, and its arguments.
            input: its input.
            environment: added to that of the manifest.

        Raises:
            InvalidValueError, MissingFeatureError: as `exec`.
        """
        async with await self.exec(container, command, environment, stdin=bool(input)) as process:
            return await process.communicate(input)

    # Logs

    async def logs(
        self,
        container: Container | str,
        *,
        follow: bool = False,
        since: float | None = None,
        lines: int | None = None,
        cursor: str | None = None,
        streams: Iterable[LogStream] = reading.BOTH,
    ) -> AsyncGenerator[Log, None]:
        """Yield the output of a container: lines, and gaps where it was overwritten unread.

        They come oldest first: those of the newest ended run, and then those of the present one.

        Later requests of this client are answered after it: a followed log needs a connection of
        its own. Closing the iterator before its end (see contextlib.aclosing)
        closes the connection if the log is followed. Otherwise the rest is dropped.

        Args:
            container: the container.
            follow: go on with later output, over restarts, until the package is removed or the
                runtime shuts down.
            since: only lines of the last so many seconds.
            lines: only that many lines of those that are there now, the last ones.
            cursor: only what follows the line with this cursor.
            streams: only lines of these streams.

        Raises:
            MissingFeatureError: the runtime does not have the feature `logs`.
            InvalidValueError: an argument is invalid.
            RefusedError: the container is not installed or discards its output, or the cursor is
                invalid.
        """
        self._session.require(LOGS)
        [target] = await self.resolve(container)
        message = reading.message(
            target, follow=follow, since=since, lines=lines, cursor=cursor, streams=streams
        )
        call = await self._request(message)
        try:
            while call.logs or not call.done:
                await self._connection.wait(lambda: bool(call.logs) or call.done)
                while call.logs:
                    yield call.logs.popleft()
                self._connection.regulate()
        finally:
            if not call.done and follow:
                self._connection.abort(
                    DisconnectedError("a log that was followed was closed before its end")
                )
            call.drop_logs()
            self._connection.regulate()
        call.result(response.Logs)

    # Notifications

    async def notifications(self) -> AsyncIterator[Notification]:
        """Yield the notifications, until the runtime has shut down.

        Raises:
            InvalidValueError: the client did not subscribe.
            NotificationsLostError: they were not read in time, and some are dropped.
            DisconnectedError: the connection ended without a shutdown.
        """
        session = self._session
        if not session.subscribed:
            raise InvalidValueError("this client has not subscribed (connect with subscribe=True)")
        while True:
            message = session.next_notification()
            if message is not None:
                yield message
            elif session.ended:
                return
            else:
                await self._connection.wait(lambda: bool(session.notifications))

    # The wire

    async def _run(self, steps: Steps[T]) -> T:
        answer: Any = None
        failure: NorthstarError | None = None
        with contextlib.closing(steps):
            while True:
                try:
                    step = steps.send(answer) if failure is None else steps.throw(failure)
                except StopIteration as end:
                    result: T = end.value
                    return result
                answer = failure = None
                try:
                    answer = await self._execute(step)
                except NorthstarError as error:
                    failure = error

    async def _execute(self, step: Step) -> response.Response | Call | None:
        match step:
            case Ask(message, kind):
                answer: response.Response = await self._ask(message, kind)
                return answer
            case Send(message):
                return await self._request(message)
            case Wait(done, timeout):
                with contextlib.suppress(TimeoutError):
                    async with time_limit(timeout):
                        await self._connection.wait(done)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
        return None

    async def _ask(self, message: request.Request, kind: type[R]) -> R:
        return await self._answer(await self._request(message), kind)

    async def _request(self, message: request.Request) -> Call:
        async with self._sending:
            await self._connection.writable.wait()
            call, line = self._session.request(message)
            self._connection.write(line)
        return call

    async def _answer(self, call: Call, kind: type[R]) -> R:
        if not call.done:
            answered = asyncio.Event()
            call.on_done = answered.set
            await answered.wait()
        return call.result(kind)

    async def _send_package(
        self,
        message: Callable[[int], request.Request],
        package: Path | bytes | Readable | AsyncReadable,
        size: int | None,
        progress: Progress | None,
    ) -> Call:
        """Send the request that `message` makes of a package's size, and the package."""
        with opened(package, size) as (source, total):
            async with self._sending:
                call, line = self._session.request(message(total))
                try:
                    self._connection.write(line)
                    await self._upload(source, total, call, progress)
                except BaseException:
                    what = "an install was cancelled or failed"
                    if isinstance(call.request, request.Update):
                        what = "an update was cancelled or failed"
                    self._connection.abort(DisconnectedError(what))
                    raise
        return call

    async def _upload(
        self,
        source: Readable | AsyncReadable,
        total: int,
        call: Call,
        progress: Progress | None,
    ) -> None:
        sent = 0
        while sent < total:
            size = min(CHUNK, total - sent)
            if inspect.iscoroutinefunction(source.read):
                data = await source.read(size)
            else:
                # A slow disk must not block the other tasks.
                data = await asyncio.to_thread(source.read, size)
            if not data:
                raise truncated_error(sent, total)
            self._connection.write(data)
            await self._connection.writable.wait()
            sent += len(data)
            if progress is not None:
                progress(sent, total)
            if call.done:
                call.raise_upload_error(sent, total, self._session.closing)


async def _connected(place: address.Tcp | address.Unix) -> socket.socket:
    """Return a socket that is connected to the first address of the host that answers.

    create_connection does the same, but its error for several addresses is not readable for users.
    """
    loop = asyncio.get_running_loop()
    if isinstance(place, address.Unix):
        addresses: list[tuple[int, Any]] = [(socket.AF_UNIX, place.path)]
    else:
        found = await loop.getaddrinfo(*place, type=socket.SOCK_STREAM)
        addresses = [(family, where) for family, _, _, _, where in found]
    failure: OSError | None = None
    for family, where in addresses:
        stream = socket.socket(family, socket.SOCK_STREAM)
        try:
            stream.setblocking(False)
            await _connect(stream, where)
        except OSError as error:
            stream.close()
            failure = error
        except BaseException:
            stream.close()
            raise
        else:
            return stream
    raise failure or OSError("the host has no address")


async def _connect(stream: socket.socket, where: Any) -> None:
    """Connect a non-blocking socket.

    Raises:
        OSError: no runtime listens.
    """
    if stream.family != socket.AF_UNIX:
        await asyncio.get_running_loop().sock_connect(stream, where)
        return
    while True:
        try:
            stream.connect(where)
        except BlockingIOError:
            # The runtime's backlog is full (connect(2), EAGAIN). The kernel does not report when
            # it has room again, and asyncio would treat EAGAIN as a connection in progress.
            await asyncio.sleep(RETRY)
        else:
            return


class _Connection(asyncio.Protocol):
    """The asyncio protocol that connects a session with a socket.

    Attributes:
        writable: set unless the write buffer is full; also set once the connection is lost.
        closed: the connection is lost.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.writable = asyncio.Event()
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._receiving = True
        self._waiters: set[asyncio.Future[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.session.receive(data)
        except NorthstarError as error:
            self.abort(error)
        self.regulate()
        self._wake()

    def regulate(self) -> None:
        """Read from the socket unless the caller has not read many messages of a log or an exec."""
        session = self.session
        self.receive(
            session.unread_output < UNREAD_MAX and session.unread_logs <= reading.UNREAD_MAX
        )

    def eof_received(self) -> None:
        self.session.end()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.session.error is None:
            self._drain()
            self.session.fail(DisconnectedError(f"the connection broke: {reason(exc)}"))
        self.session.end()
        self.writable.set()
        self.closed.set()
        self._wake()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def abort(self, error: NorthstarError) -> None:
        """Close the connection at once; unsent data is dropped."""
        self.session.fail(error)
        if self._transport is None:
            self.closed.set()
        else:
            self._transport.abort()

    def receive(self, wanted: bool) -> None:
        """Receive no more, or continue."""
        if self._transport is None or self._transport.is_closing():
            return
        if wanted != self._receiving:
            self._receiving = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def wire(self) -> Wire:
        """Return what the process of an exec uses."""
        from northstar.client.async_process import Wire

        assert self._transport is not None

        async def close() -> None:
            self.abort(DisconnectedError("the connection was closed, which ends its process"))
            await self.closed.wait()

        return Wire(
            self._transport.get_extra_info("socket"),
            self.session.stream,
            self.write,
            self.writable.wait,
            self.wait,
            self.receive,
            close,
        )

    async def wait(self, done: Callable[[], bool]) -> None:
        """Wait until received messages make `done` true, or the runtime has shut down.

        Raises:
            NorthstarError: the session has failed.
        """
        while not done():
            if self.session.error is not None:
                if self.session.ended:
                    return
                raise self.session.error
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _drain(self) -> None:
        """Process the data that arrived before the runtime closed the connection.

        A write that fails ends the transport, but the runtime's last messages may still be in the
        socket, which is closed only after `connection_lost`.
        """
        assert self._transport is not None
        stream = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError, NorthstarError):
            while data := os.read(stream.fileno(), CHUNK):
                self.session.receive(data)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
