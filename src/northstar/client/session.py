"""The client's side of a console connection, without I/O: encodes requests, decodes messages.

Both clients use it. Answers come in the order of the requests, so the answer to a cancelled request
is recognised by its position and dropped.
"""

from __future__ import annotations

import contextlib
import enum
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn, TypeVar

from northstar import api
from northstar.api import notification, request, response
from northstar.api.log import Log, LogLine, LogLost
from northstar.api.status import ContainerState, Status
from northstar.api.stream import ClientStream, Stderr, Stdout
from northstar.client.errors import (
    DisconnectedError,
    MissingFeatureError,
    NotificationsLostError,
    PermissionDeniedError,
    RejectedError,
)
from northstar.model import Container, ExitStatus, InvalidValueError, NorthstarError, ProtocolError

TIMEOUT: Final = 10.0
"""Default time that the runtime may take to answer, in seconds."""

STOP_TIMEOUT: Final = 10.0
"""Time that a container has to end by its stop signal if its manifest gives none, in seconds."""

KILL_TIMEOUT: Final = 10.0
"""Default time that it has to end by SIGKILL, in seconds."""

LINE_MAX: Final = 2**26
"""Longest line that is accepted from the runtime, in bytes."""

QUEUE_MAX: Final = 10_000
"""Maximum number of notifications that are kept until the caller reads them."""

Trace = Callable[[bytes], None]
"""Called with every line in both directions, with its newline; not with the bytes of packages."""

Output = Stdout | Stderr
"""A message with output of an exec'ed process."""

R = TypeVar("R", bound=response.Response)

_FAILURES: Final = (
    response.Failed,
    response.InstallFailed,
    response.UpdateFailed,
    response.KeysFailed,
)


class Call:
    """A request that was sent, and later its answer.

    Attributes:
        preceding: number of notifications that were received before the answer and not read then.
        output: of an exec, the output that was received and not read.
        logs: the messages that precede the answer to a request `logs`, and were not read yet.
    """

    def __init__(self, sent: request.Request) -> None:
        self.request = sent
        self.on_done: Callable[[], None] | None = None
        self.preceding = 0
        self.output: deque[Output] = deque()
        self.logs: deque[Log] = deque()
        self._drops_logs = False
        self._answer: response.Response | None = None
        self._error: NorthstarError | None = None

    @property
    def done(self) -> bool:
        """Whether the answer, or an error, is known."""
        return self._answer is not None or self._error is not None

    def take_log(self, message: Log) -> None:
        """Take a message that precedes the answer.

        Raises:
            ProtocolError: it does not belong to this request.
        """
        if not isinstance(self.request, request.Logs):
            raise ProtocolError(f"log precedes the answer to {type(self.request).__name__}")
        if message.container != self.request.container:
            raise ProtocolError(f"log of {message.container} for {self.request.container}")
        if not self._drops_logs:
            self.logs.append(message)

    def drop_logs(self) -> None:
        """Drop the messages that precede the answer, those that come later too."""
        self._drops_logs = True
        self.logs.clear()

    def finish(self, outcome: response.Response | NorthstarError) -> None:
        """Set the answer, or the error if there will be no answer."""
        if isinstance(outcome, NorthstarError):
            self._error = outcome
        else:
            self._answer = outcome
        if self.on_done is not None:
            self.on_done()

    def result(self, kind: type[R]) -> R:
        """Return the answer.

        Raises:
            RefusedError: the runtime refuses the request.
            PermissionDeniedError: the connection lacks the permission for it.
            DisconnectedError: there will be no answer.
            ProtocolError: the answer is of another type.
        """
        if self._error is not None:
            raise self._error
        answer = self._answer
        if isinstance(answer, response.PermissionDenied):
            raise PermissionDeniedError(answer.request)
        if not isinstance(answer, kind):
            raise ProtocolError(
                f"the runtime answers {type(self.request).__name__} with {type(answer).__name__}"
            )
        result = getattr(answer, "result", None)
        if isinstance(result, _FAILURES):
            raise api.RefusedError(result.error)
        return answer

    def raise_upload_error(self, sent: int, total: int, closing: str | None = None) -> NoReturn:
        """Raise the error for a request that was answered before its whole package was sent.

        Args:
            sent: bytes of the package that were sent.
            total: its size, in bytes.
            closing: why the runtime has closed the connection, if it has said so.

        Raises:
            NorthstarError: the error of `result`, or that the answer came too early.
        """
        try:
            self.result(type(self._answer) if self._answer is not None else response.Install)
        except DisconnectedError as error:
            if closing is not None:
                raise
            raise DisconnectedError(
                f"{error.message} after {sent} of {total} bytes of the package",
                hint="see the runtime's log for the reason; check max_npk_install_size and "
                "npk_stream_timeout",
            ) from None
        raise ProtocolError(f"the runtime answers after {sent} of {total} bytes of the package")


class StopTimeout(enum.Enum):
    """The time that a container has to end by its stop signal, if the caller gives none."""

    MANIFEST = "manifest"
    """`service.stop.timeout` of its manifest; without it `STOP_TIMEOUT`."""


class Stopped(NamedTuple):
    """How a container was stopped.

    Attributes:
        killed: it did not end by its stop signal in time, and SIGKILL was sent.
        status: its exit status; None if the client did not subscribe to notifications,
            connected after the exit, or the container was not running.
    """

    killed: bool
    status: ExitStatus | None


PROCESS: Final = frozenset({ContainerState.RUNNING, ContainerState.READY, ContainerState.UNHEALTHY})
"""States in which the payload was executed and is not being stopped."""

UNWANTED: Final = frozenset(
    {ContainerState.INSTALLED, ContainerState.FAILED, ContainerState.REMOVING}
)
"""States that only a request ends."""

ENDED: Final = UNWANTED | {ContainerState.BACKOFF}
"""States after the end of a run."""


class Watch:
    """The state of one container according to the notifications since the watch began.

    Attributes:
        ended: it has ended, and was not started again.
        status: the exit status of that end.
        first: the status of the first exit, even if it was started again.
        current: its status according to the last notification `state`, or to an answer.
        started_run: number of the last run that was executed; -1 if there is none.
        ready_run: number of the last run that was ready; -1 if there is none.
    """

    def __init__(self, container: Container) -> None:
        self.container = container
        self.ended = False
        self.status: ExitStatus | None = None
        self.first: ExitStatus | None = None
        self.current: Status | None = None
        self.started_run = -1
        self.ready_run = -1

    def handle(self, message: notification.Notification) -> None:
        """Process any notification; those of other containers are ignored."""
        # A start counts too: the kill applied to the instance announced last before the answer.
        if isinstance(message, notification.Exit) and message.container == self.container:
            self.ended, self.status = True, message.status
            if self.first is None:
                self.first = message.status
        elif isinstance(message, notification.Started) and message.container == self.container:
            self.ended, self.status = False, None
        elif isinstance(message, notification.State) and message.container == self.container:
            self._observe(message.status)

    def take_answer(self, answer: response.Status) -> None:
        """Process any answer with states.

        It must be processed in the order of the lines: notifications that follow it may have
        arrived in the same piece, and be processed before the caller receives the answer.
        """
        for result in answer.results:
            if isinstance(result, response.StatusOk) and result.container == self.container:
                self._observe(result.status)

    def _observe(self, status: Status) -> None:
        self.current = status
        if status.state in PROCESS:
            self.started_run = status.run
        if status.state is ContainerState.READY:
            self.ready_run = status.run


class Session:
    """The state of one connection.

    Attributes:
        connected: the runtime has accepted the connection.
        features: the features of the runtime; none if it has no extended connections.
        notifications: received and not yet read by the caller.
        runs: for each container with a notification of a start or an exit, the status of its last
            exit, None while it runs.
        error: why the connection failed or ended, or None.
        closing: why the runtime closes the connection, if it has said so.
        shutting_down: the runtime announced its shutdown, so the end of the stream is expected.
    """

    def __init__(
        self, *, subscribe: bool, extended: bool = True, trace: Trace | None = None
    ) -> None:
        self.subscribed = subscribe
        self._extended = extended or None
        self.connected = False
        self.features: frozenset[str] = frozenset()
        self.shutting_down = False
        self.closing: str | None = None
        self.error: NorthstarError | None = None
        self.notifications: deque[notification.Notification] = deque()
        self.runs: dict[Container, ExitStatus | None] = {}
        self.lost: NotificationsLostError | None = None
        self._calls: deque[Call] = deque()
        self._exec: Call | None = None
        self._watches: list[Watch] = []
        self._buffer = bytearray()
        self._trace = trace

    def connect(self) -> bytes:
        """Return the first line to send: the connect message."""
        # A runtime without extended connections ignores that one is requested.
        line = api.encode(api.Connect(api.API_VERSION, self.subscribed, self._extended))
        if self._trace is not None:
            self._trace(line)
        return line

    def request(self, message: request.Request) -> tuple[Call, bytes]:
        """Return a request's call and line. The whole line must be sent.

        Raises:
            InvalidValueError: the request is invalid: the runtime would close the connection.
            MissingFeatureError: the runtime does not know the request.
            NorthstarError: the connection has failed; this is its error.
        """
        if self.error is not None:
            raise self.error
        if self._exec is not None and not self._exec.done:
            raise InvalidValueError(
                "a process is being executed on this connection, which takes no other request",
                hint="use another connection, or wait until the process has ended",
            )
        self.require(request.feature(message))
        line = api.encode(message)
        try:
            api.decode_extended(line)
        except ProtocolError as error:
            raise InvalidValueError(f"not a request that can be sent: {error}") from None
        if self._trace is not None:
            self._trace(line)
        call = Call(message)
        self._calls.append(call)
        if isinstance(message, request.Exec):
            self._exec = call
        return call, line

    @property
    def unread_output(self) -> int:
        """The number of messages with output of a process that were not read, until its end."""
        return 0 if self._exec is None or self._exec.done else len(self._exec.output)

    def stream(self, message: ClientStream) -> bytes:
        """Return the line of a message for the process that is being executed.

        Raises:
            InvalidValueError: the message is invalid: the runtime would close the connection.
        """
        line = api.encode(message)
        try:
            api.decode_extended(line)
        except ProtocolError as error:
            raise InvalidValueError(f"not a message that can be sent: {error}") from None
        if self._trace is not None:
            self._trace(line)
        return line

    def require(self, feature: str | None) -> None:
        """Check that the runtime has a feature, if one is given.

        Raises:
            MissingFeatureError: it does not.
        """
        if feature is not None and feature not in self.features:
            raise MissingFeatureError(feature)

    def require_subscription(self) -> None:
        """Check that the client has subscribed to notifications.

        Raises:
            InvalidValueError: it has not.
        """
        if not self.subscribed:
            raise InvalidValueError(
                "this client did not subscribe to notifications, which announce exits and states",
                hint="connect with subscribe=True",
            )

    def receive(self, data: bytes) -> None:
        """Process received bytes: answers finish their calls, notifications are queued.

        Raises:
            ProtocolError: the peer is no runtime; the session has failed.
            RejectedError: the runtime rejects the connection; the session has failed.
        """
        self._buffer += data
        if len(self._buffer) > LINE_MAX and b"\n" not in self._buffer:
            self._buffer.clear()
            raise self.fail(ProtocolError("the runtime sends a line that does not end"))
        if b"\n" not in data:
            return
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            self._take(bytes(line))

    @property
    def unread_logs(self) -> int:
        """Number of messages of a log that the caller has not read."""
        return len(self._calls[0].logs) if self._calls else 0

    @property
    def ended(self) -> bool:
        """Whether the connection has ended by a shutdown."""
        return self.shutting_down and isinstance(self.error, DisconnectedError)

    def end(self) -> None:
        """Process the end of the stream: unanswered calls fail."""
        line, self._buffer = bytes(self._buffer), bytearray()
        # A last line without newline counts if it is complete.
        if line and self.error is None:
            try:
                self._take(line)
            except NorthstarError:
                return
        self.fail(
            DisconnectedError(
                "the runtime closed the connection", hint="the runtime's log names the reason"
            )
        )

    def fail(self, error: NorthstarError) -> NorthstarError:
        """Fail all calls. The first error is kept and returned."""
        if self.error is None:
            if self.closing is not None and isinstance(error, DisconnectedError):
                error = DisconnectedError(
                    f"the runtime closed the connection: {self.closing}",
                    hint="the limits of a connection are in console.global.options of the "
                    "runtime's configuration, or in console.options for containers",
                )
            self.error = error
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.finish(self.error)
        return self.error

    def next_notification(self) -> notification.Notification | None:
        """Return the oldest notification; None if there is none.

        Raises:
            NotificationsLostError: notifications were dropped at this point.
        """
        if self.notifications:
            return self.notifications.popleft()
        lost, self.lost = self.lost, None
        if lost is not None:
            raise lost
        return None

    @contextlib.contextmanager
    def watching(self, container: Container) -> Iterator[Watch]:
        """Watch a container, if this session is subscribed. The queue still gets everything."""
        watch = Watch(container)
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    def _take(self, line: bytes) -> None:
        if self._trace is not None:
            self._trace(line + b"\n")
        try:
            message = api.decode_extended(line)
            if message is not None or not self.connected:
                self._message(message)
        except ProtocolError as error:
            raise self.fail(ProtocolError(f"the runtime violates the protocol: {error}")) from None

    def _message(self, message: api.Message | None) -> None:
        if not self.connected:
            if isinstance(message, api.ConnectNack):
                raise self.fail(RejectedError(message))
            if not isinstance(message, api.ConnectAck):
                received = "a notification" if message is None else type(message).__name__
                raise ProtocolError(f"{received} is received before connect is answered")
            self.connected = True
            if message.features is not None:
                self.features = frozenset(message.features.features)
        elif isinstance(message, notification.Closing):
            self.closing = message.reason
        elif isinstance(message, api.Notification):
            self._notification(message)
        elif isinstance(message, Output):
            if not self._calls or self._calls[0] is not self._exec:
                raise ProtocolError("output is received, and no process is being executed")
            self._calls[0].output.append(message)
        elif isinstance(message, LogLine | LogLost):
            if not self._calls:
                raise ProtocolError("log precedes the answer to no request")
            self._calls[0].take_log(message)
        elif isinstance(message, api.Response):
            if not self._calls:
                raise ProtocolError(f"{type(message).__name__} answers no request")
            self.shutting_down |= isinstance(message, response.Shutdown)
            if isinstance(message, response.Status):
                for watch in self._watches:
                    watch.take_answer(message)
            call = self._calls.popleft()
            call.preceding = len(self.notifications)
            call.finish(message)
        else:
            raise ProtocolError(f"{type(message).__name__} is not for a client")

    def _notification(self, message: notification.Notification) -> None:
        self.shutting_down |= isinstance(message, notification.Shutdown)
        self._record_run(message)
        for watch in self._watches:
            watch.handle(message)
        if self.lost is None and len(self.notifications) >= QUEUE_MAX:
            self.lost = NotificationsLostError(
                f"more than {QUEUE_MAX} notifications were not read; later ones are dropped"
            )
        if self.lost is None:
            self.notifications.append(message)

    def _record_run(self, message: notification.Notification) -> None:
        match message:
            case notification.Started(container):
                self.runs[container] = None
            case notification.Exit(container, status):
                self.runs[container] = status
            case notification.Uninstall(container):
                # This limits `runs` to the installed containers.
                self.runs.pop(container, None)
