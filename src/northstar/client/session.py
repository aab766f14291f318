"""The client's side of a console connection, without I/O: what to send, and what came means.

Both clients drive one. Answers come in the order of the requests, so an answer that nobody
waits for any longer is recognised by its place, and the stream stays in step.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn, TypeVar

from northstar import api
from northstar.api import notification, request, response
from northstar.client.errors import (
    DisconnectedError,
    NotificationsLostError,
    PermissionDeniedError,
    RejectedError,
)
from northstar.model import Container, ExitStatus, InvalidValueError, NorthstarError, ProtocolError

TIMEOUT: Final = 10.0
"""Seconds that the runtime may take, unless the caller says otherwise."""

LINE_MAX: Final = 2**26
"""Longest line that is accepted from the runtime, in bytes."""

QUEUE_MAX: Final = 10_000
"""Most notifications that are kept for somebody to take them."""

Trace = Callable[[bytes], None]
"""Gets every line in both directions, with its newline. Not the bytes of packages."""

R = TypeVar("R", bound=response.Response)


class Call:
    """A request that was sent, and its answer once it is there."""

    def __init__(self, sent: request.Request) -> None:
        self.request = sent
        self.on_done: Callable[[], None] | None = None
        self._answer: response.Response | None = None
        self._error: NorthstarError | None = None

    @property
    def done(self) -> bool:
        """Whether `result` has something to say."""
        return self._answer is not None or self._error is not None

    def finish(self, outcome: response.Response | NorthstarError) -> None:
        """Set the answer, or the reason why there will be none."""
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
            PermissionDeniedError: it needs a permission.
            DisconnectedError: there will be no answer.
            ProtocolError: the answer is to something else.
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
        if isinstance(result, response.Failed | response.InstallFailed):
            raise api.RefusedError(result.error)
        return answer

    def end_of_upload(self, sent: int, total: int) -> NoReturn:
        """Say why an install is done before all of the package was sent.

        Raises:
            NorthstarError: what `result` raises, or that the answer came too early.
        """
        try:
            self.result(response.Install)
        except DisconnectedError as error:
            raise DisconnectedError(
                f"{error.message} after {sent} of {total} bytes of the package",
                hint="the runtime's log says why (max_npk_install_size, npk_stream_timeout?)",
            ) from None
        raise ProtocolError(f"the runtime answers after {sent} of {total} bytes of the package")


class Stopped(NamedTuple):
    """How a container was stopped.

    Attributes:
        killed: it did not end by SIGTERM in time, and was sent SIGKILL.
        status: its exit status; None if the client did not subscribe to notifications, or came
            too late for it.
    """

    killed: bool
    status: ExitStatus | None


class Watch:
    """What the notifications say of one container, from now on.

    Attributes:
        ended: it has ended since, and was not started again.
        status: with which status.
        first: the status of the first exit since, even if it was started again.
    """

    def __init__(self, container: Container) -> None:
        self.container = container
        self.ended = False
        self.status: ExitStatus | None = None
        self.first: ExitStatus | None = None

    def see(self, message: notification.Notification) -> None:
        """Take a notification of whatever kind, about whatever container."""
        # A start counts too: a signal was accepted by what was announced last before the answer.
        if isinstance(message, notification.Exit) and message.container == self.container:
            self.ended, self.status = True, message.status
            if self.first is None:
                self.first = message.status
        elif isinstance(message, notification.Started) and message.container == self.container:
            self.ended, self.status = False, None


class Session:
    """The state of one connection.

    Attributes:
        connected: the runtime said yes.
        notifications: those that came and were not taken.
        runs: what the notifications say of each installed container: the status of its last exit,
            None while it runs. Those of which nothing was notified are missing.
        error: why the connection is of no use any more, or None.
        shutting_down: the runtime said so; then the end of the stream is no surprise.
    """

    def __init__(self, *, subscribe: bool, trace: Trace | None = None) -> None:
        self.subscribed = subscribe
        self.connected = False
        self.shutting_down = False
        self.error: NorthstarError | None = None
        self.notifications: deque[notification.Notification] = deque()
        self.runs: dict[Container, ExitStatus | None] = {}
        self.lost: NotificationsLostError | None = None
        self._calls: deque[Call] = deque()
        self._watches: list[Watch] = []
        self._buffer = bytearray()
        self._trace = trace

    def connect(self) -> bytes:
        """Return the first line."""
        line = api.encode(api.Connect(api.API_VERSION, self.subscribed))
        if self._trace is not None:
            self._trace(line)
        return line

    def request(self, message: request.Request) -> tuple[Call, bytes]:
        """Return a request's call and line. All of the line must be sent.

        Raises:
            InvalidValueError: the runtime would not understand it, and close the connection.
            NorthstarError: the connection has failed; what was wrong then.
        """
        if self.error is not None:
            raise self.error
        line = api.encode(message)
        try:
            api.decode(line)
        except ProtocolError as error:
            raise InvalidValueError(f"not a request that can be sent: {error}") from None
        if self._trace is not None:
            self._trace(line)
        call = Call(message)
        self._calls.append(call)
        return call, line

    def receive(self, data: bytes) -> None:
        """Take what came: calls are finished, notifications queued.

        Raises:
            ProtocolError: this is no runtime; the session has failed.
            RejectedError: it does not want the connection; likewise.
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
    def ended(self) -> bool:
        """Whether the connection has ended as was to be expected: by a shutdown."""
        return self.shutting_down and isinstance(self.error, DisconnectedError)

    def end(self) -> None:
        """Take the end of the stream: calls that are still open fail."""
        line, self._buffer = bytes(self._buffer), bytearray()
        # A last line without its newline still counts, if it is whole.
        if line and self.error is None:
            try:
                self._take(line)
            except NorthstarError:
                return
        self.fail(DisconnectedError("the runtime closed the connection"))

    def fail(self, error: NorthstarError) -> NorthstarError:
        """Give up; the first reason stays. Returns the reason."""
        if self.error is None:
            self.error = error
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.finish(self.error)
        return self.error

    def next_notification(self) -> notification.Notification | None:
        """Return the oldest notification; None if none is there.

        Raises:
            NotificationsLostError: notifications were dropped at this place.
        """
        if self.notifications:
            return self.notifications.popleft()
        lost, self.lost = self.lost, None
        if lost is not None:
            raise lost
        return None

    @contextlib.contextmanager
    def watching(self, container: Container) -> Iterator[Watch]:
        """Watch a container, if this session is subscribed; who takes the queue misses nothing."""
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
            self._message(api.decode(line))
        except ProtocolError as error:
            raise self.fail(
                ProtocolError(f"the runtime does not keep to the protocol: {error}")
            ) from None

    def _message(self, message: api.Message) -> None:
        if not self.connected:
            if isinstance(message, api.ConnectNack):
                raise self.fail(RejectedError(message))
            if not isinstance(message, api.ConnectAck):
                raise ProtocolError(f"{type(message).__name__} comes before the connection is made")
            self.connected = True
        elif isinstance(message, api.Notification):
            self._notification(message)
        elif isinstance(message, api.Response):
            if not self._calls:
                raise ProtocolError(f"{type(message).__name__} answers no request")
            self.shutting_down |= isinstance(message, response.Shutdown)
            self._calls.popleft().finish(message)
        else:
            raise ProtocolError(f"{type(message).__name__} is not for a client")

    def _notification(self, message: notification.Notification) -> None:
        self.shutting_down |= isinstance(message, notification.Shutdown)
        self._note_run(message)
        for watch in self._watches:
            watch.see(message)
        if self.lost is None and len(self.notifications) >= QUEUE_MAX:
            self.lost = NotificationsLostError(
                f"more than {QUEUE_MAX} notifications were not taken; later ones are dropped"
            )
        if self.lost is None:
            self.notifications.append(message)

    def _note_run(self, message: notification.Notification) -> None:
        match message:
            case notification.Started(container):
                self.runs[container] = None
            case notification.Exit(container, status):
                self.runs[container] = status
            case notification.Uninstall(container):
                # So there are never more than there are containers.
                self.runs.pop(container, None)
