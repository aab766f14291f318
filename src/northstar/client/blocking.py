"""A client without an event loop, for scripts and commands. It is not thread-safe."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from northstar.api import RefusedError, request, response
from northstar.api.feature import EXEC, LOGS, SERVICE, UPDATE
from northstar.api.log import Log, LogStream
from northstar.api.notification import Notification
from northstar.api.response import ContainerData
from northstar.client import address, reading
from northstar.client.errors import (
    ConnectError,
    DisconnectedError,
    NoAnswerError,
    PermissionDeniedError,
    reason,
)
from northstar.client.operations import BlockingOperations
from northstar.client.package import CHUNK, Path, Progress, Readable, named, opened, truncated_error
from northstar.client.session import TIMEOUT, Call, Session, Trace
from northstar.client.steps import (
    Ask,
    Send,
    Sleep,
    Step,
    Steps,
    Wait,
    container_in,
    data_in,
    versions_in,
)
from northstar.model import Container, InvalidValueError, NorthstarError, ProtocolError
from northstar.model.deadline import Deadline

if TYPE_CHECKING:
    from northstar.client.blocking_process import Process
    from northstar.client.process import Completed

T = TypeVar("T")
R = TypeVar("R", bound=response.Response)

RETRY: Final = 0.01
"""Seconds between attempts to connect to a Unix socket whose backlog is full."""

_POLL_MAX: Final = 2**31 - 1
"""Longest time that poll(2) accepts, in ms."""

_MAX_UNANSWERED: Final = 32
"""Maximum unanswered requests of `inspect_all`. Their lines fit into any socket buffer."""


class Client(BlockingOperations):
    """A connection to the console.

    Every method that sends a request may also raise: RefusedError, PermissionDeniedError,
    DisconnectedError, NoAnswerError, ProtocolError. After the first two and after NoAnswerError
    the connection can still be used: a late answer is recognised and dropped.
    """

    def __init__(
        self,
        stream: socket.socket,
        *,
        subscribe: bool = False,
        extended: bool = True,
        timeout: float | None = TIMEOUT,
        trace: Trace | None = None,
    ) -> None:
        """Send the connect message on a connected stream socket, and wait for its answer.

        Args:
            stream: the socket, which the client owns. It is closed if this fails.
            subscribe: subscribe to notifications; needs the permission `notifications`.
            extended: request an extended connection. A plain one has the requests and the
                notifications of Northstar 0.9.2, and no features.
            timeout: longest wait for data from the runtime, in seconds.
            trace: called with every line in both directions.

        Raises:
            RejectedError: the runtime rejects the connection.
            DisconnectedError, NoAnswerError, ProtocolError: the peer is no runtime, or has failed.
        """
        self._stream = stream
        self._timeout = timeout
        self._session = Session(subscribe=subscribe, extended=extended, trace=trace)
        try:
            self._send(self._session.connect())
            self._receive_until(lambda: self._session.connected)
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        subscribe: bool = False,
        extended: bool = True,
        timeout: float | None = TIMEOUT,
        trace: Trace | None = None,
    ) -> Self:
        """Connect to `tcp://host[:port]` or `unix:///path`; by default as `nstar` does.

        The default is the value of NORTHSTAR_URL; else `unix:///run/northstar/console` if it
        exists, else `tcp://localhost:4200`.

        Raises:
            InvalidValueError: the URL is none of these.
            ConnectError: no runtime listens there, or the peer is no runtime.
            RejectedError: the runtime rejects the connection.
        """
        url, chosen = (url, None) if url is not None else address.default()
        place = address.parse(url)
        try:
            if isinstance(place, address.Unix):
                stream = _connected(socket.AF_UNIX, place.path, timeout)
            else:
                stream = _connected_to_host(*place, timeout)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, UnicodeError) as error:
            # UnicodeError: a host name that IDNA encoding does not allow.
            raise ConnectError(url, reason(error), chosen) from None
        try:
            return cls(stream, subscribe=subscribe, extended=extended, timeout=timeout, trace=trace)
        except (DisconnectedError, NoAnswerError, ProtocolError) as error:
            raise ConnectError(url, error.message, chosen) from None

    @classmethod
    def from_env(
        cls,
        *,
        subscribe: bool = False,
        extended: bool = True,
        timeout: float | None = TIMEOUT,
    ) -> Self:
        """Return a client on this container's console connection (NORTHSTAR_CONSOLE).

        A container has one such connection: it is closed with the client.

        Raises:
            InvalidValueError: this is no container, or it has no console.
        """
        stream = address.environment_socket()
        return cls(stream, subscribe=subscribe, extended=extended, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._session.fail(DisconnectedError("the connection was closed by this client"))
        self._stream.close()

    def fileno(self) -> int:
        """Return the descriptor, with which a caller can wait for notifications."""
        return self._stream.fileno()

    # Requests

    def inspect_all(
        self, containers: Iterable[Container | str]
    ) -> Iterator[ContainerData | RefusedError | PermissionDeniedError]:
        """Inspect many containers, with several requests in progress.

        Yields:
            For each container, in this order, the result of `inspect`, or the error if the runtime
            refuses it.
        """
        rest = iter(containers)
        calls: deque[Call] = deque()
        while True:
            # A limited number: while its answers are not read, the runtime stops reading requests.
            for container in itertools.islice(rest, _MAX_UNANSWERED - len(calls)):
                [target] = self.resolve(container)
                call, line = self._session.request(request.Inspect(target))
                self._send(line)
                calls.append(call)
            if not calls:
                return
            try:
                yield data_in(self._answer(calls.popleft(), response.Inspect))
            except (RefusedError, PermissionDeniedError) as error:
                yield error

    def latest_status(
        self, *containers: Container | str
    ) -> tuple[response.StatusOk | response.Failed, ...]:
        """Return the result of `status`, and drop the notifications that precede the answer.

        The next ones of `notifications` are changes after it.

        Raises:
            MissingFeatureError: the runtime does not have the feature `service`.
        """
        self._session.require(SERVICE)
        call = self._request(request.Status(self.resolve(*containers)))
        results = self._answer(call, response.Status).results
        for _ in range(call.preceding):
            self._session.notifications.popleft()
        return results

    def install(
        self,
        package: Path | bytes | Readable,
        repository: str,
        *,
        size: int | None = None,
        progress: Progress | None = None,
    ) -> Container:
        """Install a package.

        Args:
            package: a path, the bytes, or a readable object, whose `size` must be given.
            repository: the name of the repository.
            size: of the package, in bytes.
            progress: called after each chunk.

        Raises:
            OSError: the package cannot be read. If a part of it was sent, the connection is
                closed, since the runtime waits for the remaining bytes.
        """
        call = self._send_package(
            lambda total: request.Install(repository, total), package, size, progress
        )
        with named(package):
            return container_in(self._answer(call, response.Install))

    def update(
        self,
        package: Path | bytes | Readable,
        repository: str,
        *,
        size: int | None = None,
        progress: Progress | None = None,
        watch: Callable[[Notification], object] | None = None,
    ) -> response.UpdateOk:
        """Replace an app by the newer version in a package, and wait for the end of its trial.

        The answer may take minutes, without a limit. The runtime goes on with the update if the
        client is closed after the whole package was sent.

        Args:
            package: a path, the bytes, or a readable object, whose `size` must be given.
            repository: the name of the repository of both versions.
            size: of the package, in bytes.
            progress: called after each chunk.
            watch: called with each notification until the answer; `notifications` yields them
                no more. The client must have subscribed.

        Raises:
            MissingFeatureError: the runtime does not have the feature `update`.
            RefusedError: it was refused, or was rolled back.
            OSError: the package cannot be read, as in `install`.
        """
        session = self._session
        session.require(UPDATE)
        if watch is not None:
            session.require_subscription()
        call = self._send_package(
            lambda total: request.Update(repository, total), package, size, progress
        )
        while True:
            while watch is not None and (message := session.next_notification()) is not None:
                watch(message)
            if call.done:
                with named(package):
                    return versions_in(call.result(response.Update))
            if session.error is not None:
                raise session.error
            self._receive(None)

    def exec(
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
        from northstar.client.blocking_process import Process, Wire

        self._session.require(EXEC)
        [target] = self.resolve(container)
        message = process.exec_request(target, command, environment, stdin, tty)
        call = self._request(message)
        wire = Wire(
            self._stream,
            self._session.stream,
            self._send_some,
            self._send,
            self._exchange,
            self.close,
        )
        return Process(wire, call)

    def run(
        self,
        container: Container | str,
        command: Sequence[str],
        input: bytes = b"",  # noqa: A002 - as subprocess.run
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Execute a program in a started container; return its exit status and its output.

        Args:
            container: the container.
            command: the program, a path in the container, and its arguments.
            input: its input.
            environment: added to that of the manifest.

        Raises:
            InvalidValueError, MissingFeatureError: as `exec`.
        """
        with self.exec(container, command, environment, stdin=bool(input)) as process:
            return process.communicate(input)

    # Logs

    def logs(
        self,
        container: Container | str,
        *,
        follow: bool = False,
        since: float | None = None,
        lines: int | None = None,
        cursor: str | None = None,
        streams: Iterable[LogStream] = reading.BOTH,
    ) -> Iterator[Log]:
        """Yield the output of a container: lines, and gaps where it was overwritten unread.

        They come oldest first: those of the newest ended run, and then those of the present one.

        Later requests of this client are answered after it: a followed log needs a connection of
        its own. Closing the iterator before its end
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
        [target] = self.resolve(container)
        message = reading.message(
            target, follow=follow, since=since, lines=lines, cursor=cursor, streams=streams
        )
        call = self._request(message)
        try:
            while call.logs or not call.done:
                while call.logs:
                    yield call.logs.popleft()
                if not call.done:
                    self._receive(None if follow else self._timeout)
        finally:
            if not call.done and follow:
                self.close()
            call.drop_logs()
        call.result(response.Logs)

    # Notifications

    def notifications(self, timeout: float | None = None) -> Iterator[Notification]:
        """Yield the notifications, until the runtime has shut down.

        Args:
            timeout: longest time between two, in seconds; None waits forever.

        Raises:
            InvalidValueError: the client did not subscribe.
            NoAnswerError: no notification came in time.
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
            elif session.error is not None:
                if session.ended:
                    return
                raise session.error
            else:
                self._receive(timeout)

    # The wire

    def _run(self, steps: Steps[T]) -> T:
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
                    answer = self._execute(step)
                except NorthstarError as error:
                    failure = error

    def _execute(self, step: Step) -> response.Response | Call | None:
        match step:
            case Ask(message, kind):
                answer: response.Response = self._ask(message, kind)
                return answer
            case Send(message):
                return self._request(message)
            case Wait(done, timeout):
                self._receive_within(done, timeout)
            case Sleep(seconds):
                time.sleep(seconds)
        return None

    def _receive_within(self, done: Callable[[], bool], timeout: float | None) -> None:
        """Receive until `done`, until the session has failed, or until the time is up."""
        deadline = None if timeout is None else Deadline(timeout)
        while not done() and self._session.error is None:
            # Data that is in the socket already has arrived in time.
            if deadline is not None and deadline.passed() and not self._has_input():
                return
            with contextlib.suppress(NoAnswerError):
                self._receive(None if deadline is None else deadline.left())

    def _has_input(self) -> bool:
        """Return whether bytes, or the end of the stream, can be read without waiting."""
        return bool(_ready(self._stream, select.POLLIN, 0.0))

    def _ask(self, message: request.Request, kind: type[R]) -> R:
        return self._answer(self._request(message), kind)

    def _request(self, message: request.Request) -> Call:
        call, line = self._session.request(message)
        self._send(line)
        return call

    def _answer(self, call: Call, kind: type[R]) -> R:
        self._receive_until(lambda: call.done)
        return call.result(kind)

    def _receive_until(self, done: Callable[[], bool]) -> None:
        while not done():
            if self._session.error is not None:
                raise self._session.error
            self._receive(self._timeout)

    def _send(self, line: bytes | memoryview) -> None:
        """Send a whole line. If that fails, process the runtime's last messages for the reason."""
        rest = memoryview(line)
        try:
            while rest:
                count = self._send_some(rest)
                rest = rest[count:]
                if self._session.error is not None:
                    return
                if not count and not _ready(self._stream, select.POLLOUT, self._timeout):
                    self._fail(TimeoutError("timed out"))
        except OSError as error:
            self._fail(error)
        except BaseException:
            # The line may be incomplete: the next one would be appended to it.
            self.close()
            raise

    def _receive(self, timeout: float | None) -> None:
        """Wait for some bytes or the end of the stream, and process them."""
        try:
            if not _ready(self._stream, select.POLLIN, timeout):
                raise NoAnswerError(
                    f"the runtime did not answer within {timeout:g} s",
                    hint="it may still be processing the request",
                )
            self._stream.settimeout(None)
            data = self._stream.recv(CHUNK)
        except NoAnswerError:
            raise
        except OSError as error:
            self._fail(error)
        if data:
            self._session.receive(data)
        else:
            self._session.end()

    def _exchange(self, send: bool) -> bool:
        """Wait until something arrives, which is processed, or can be sent; return if it can be."""
        events = _ready(self._stream, select.POLLIN | (select.POLLOUT if send else 0), None)
        if events & ~select.POLLOUT:
            # The end of the connection is the result of the call.
            with contextlib.suppress(DisconnectedError):
                self._receive(None)
        return bool(events & select.POLLOUT)

    def _fail(self, error: OSError) -> NoReturn:
        broken = DisconnectedError(f"the connection broke: {reason(error)}")
        raise self._session.fail(broken) from None

    def _drain(self) -> None:
        """Process the data that arrived before the runtime closed the connection."""
        with contextlib.suppress(DisconnectedError):
            while self._session.error is None:
                self._receive(self._timeout)

    def _send_package(
        self,
        message: Callable[[int], request.Request],
        package: Path | bytes | Readable,
        size: int | None,
        progress: Progress | None,
    ) -> Call:
        """Send the request that `message` makes of a package's size, and the package."""
        with opened(package, size) as (source, total):
            call, line = self._session.request(message(total))
            try:
                self._send(line)
                self._upload(source, total, call, progress)
            except BaseException:
                self.close()
                raise
        return call

    def _upload(self, source: Readable, total: int, call: Call, progress: Progress | None) -> None:
        """Send exactly `total` bytes, and process what arrives meanwhile (notifications)."""
        sent = 0
        chunk = memoryview(b"")
        while sent < total:
            if not chunk:
                chunk = memoryview(_read_chunk(source, sent, total))
            events = _ready(self._stream, select.POLLIN | select.POLLOUT, self._timeout)
            if not events:
                raise NoAnswerError(f"the runtime took nothing within {self._timeout:g} s")
            if events & ~select.POLLOUT:
                with contextlib.suppress(DisconnectedError):
                    self._receive(self._timeout)
            else:
                count = self._send_some(chunk)
                chunk = chunk[count:]
                sent += count
                if progress is not None:
                    progress(sent, total)
            if call.done:
                call.raise_upload_error(sent, total, self._session.closing)

    def _send_some(self, chunk: memoryview) -> int:
        self._stream.settimeout(0)
        try:
            return self._stream.send(chunk)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            self._drain()
            return 0


def _ready(stream: socket.socket, events: int, timeout: float | None) -> int:
    """Wait until a socket is ready; return its events (poll(2)), 0 after the timeout.

    Python's socket timeout does not suffice: if a signal interrupts the call after the timeout, it
    does not poll again (see `northstar.model.deadline`).
    """
    poll = select.poll()
    poll.register(stream, events)
    deadline = None if timeout is None else Deadline(timeout)
    while True:
        left = None if deadline is None else min(math.ceil(deadline.left() * 1000), _POLL_MAX)
        for _, found in poll.poll(left):
            return found
        if deadline is not None and deadline.passed():
            return 0


def _connected(family: int, where: Any, timeout: float | None) -> socket.socket:
    """Return a connected socket.

    Raises:
        OSError: no runtime listens, or it does not answer in time (TimeoutError).
    """
    stream = socket.socket(family, socket.SOCK_STREAM)
    deadline = None if timeout is None else Deadline(timeout)
    try:
        stream.setblocking(False)
        while True:
            try:
                stream.connect(where)
            except BlockingIOError as error:
                if error.errno == errno.EINPROGRESS:
                    if not _ready(stream, select.POLLOUT, timeout):
                        raise TimeoutError("timed out") from None
                    if failed := stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        raise OSError(failed, os.strerror(failed)) from None
                    break
            else:
                break
            # The backlog of a Unix socket is full (connect(2), EAGAIN).
            if deadline is not None and deadline.passed():
                raise TimeoutError("timed out")
            time.sleep(RETRY)
        stream.setblocking(True)
    except BaseException:
        stream.close()
        raise
    return stream


def _connected_to_host(host: str, port: int, timeout: float | None) -> socket.socket:
    """Return a socket that is connected to the first address of a host that answers."""
    failure: OSError | None = None
    for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return _connected(family, where, timeout)
        except OSError as error:
            failure = error
    raise failure or OSError("the host has no address")


def _read_chunk(source: Readable, sent: int, total: int) -> bytes:
    data = source.read(min(CHUNK, total - sent))
    if not data:
        raise truncated_error(sent, total)
    return data
