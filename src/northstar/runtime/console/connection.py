"""One connection of the console: it reads requests and answers them in order, within its limits.

This is an asyncio protocol, not a stream: a small request is read, answered and written in one
callback, at half the cost of a task per connection. Only requests that must wait run in a task.

All memory that a peer can make the runtime use is bounded: input (reading stops while requests
wait), output (no request is executed while the peer does not read), notifications (their bound).
Beyond a few KiB it counts for all connections together, see `memory`. A BufferedProtocol limits
each read from the socket to the memory that is available.

Notifications that queue for several subscribers are the same objects, and each subscriber's queue
ends with the latest one for its kind of connection. So all queues together hold no more lines than
two may: plain connections receive a part of the notifications.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, cast

from northstar import api
from northstar.api import error as errors
from northstar.api import request as requests
from northstar.api import response as responses
from northstar.api.feature import FEATURES
from northstar.api.message import (
    API_VERSION,
    Connect,
    ConnectAck,
    ConnectNack,
    Features,
    InvalidProtocolVersion,
    Message,
    PermissionDenied,
)
from northstar.api.notification import Closing
from northstar.api.request import Request
from northstar.api.response import Response
from northstar.api.stream import ClientStream
from northstar.model import Permission, Permissions, ProtocolError, cut
from northstar.model.loop_deadline import Timer
from northstar.model.permission import describe
from northstar.runtime.config import ConsoleOptions
from northstar.runtime.console.channel import Channel
from northstar.runtime.console.dispatch import (
    SMALL,
    Caller,
    Dispatcher,
    Encoded,
    Exchange,
    Immediate,
    Prepare,
    Route,
    Upload,
)
from northstar.runtime.console.fair_queue import FairQueue
from northstar.runtime.console.first_step import Ended, first_step
from northstar.runtime.console.incoming_package import (
    IncomingPackage,
    StreamEndedError,
    StreamTimeoutError,
)
from northstar.runtime.console.lines import Lines, LineTooLongError
from northstar.runtime.console.memory import ALLOWANCE, Memory
from northstar.runtime.console.peer import Peer, address, owner
from northstar.runtime.notifications import Notifications, Subscription

log = logging.getLogger("northstar.runtime.console")

CONNECT_TIMEOUT: Final = 10.0
"""Seconds in which a client from outside must send connect."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a peer has to read pending output after the connection was closed."""

WRITE_BUFFER: Final = ALLOWANCE
"""Bytes of unread output above which requests wait and notifications queue."""

WATCH_INTERVAL: Final = 0.5
"""Seconds between two checks whether a peer that is not read from has closed its end."""

REASON_MAX: Final = 512
"""Longest reason that a client is told when its connection is closed, in characters."""

TURN: Final = 16
"""Requests in a row before other connections are served."""


class Access(NamedTuple):
    """What a connection may do, and its limits.

    Attributes:
        connect_timeout: seconds, or None.
        memory: shared by all connections of its side (see `memory`).
    """

    permissions: Permissions
    options: ConsoleOptions
    connect_timeout: float | None
    memory: Memory


class Service(NamedTuple):
    """What all connections share.

    Attributes:
        queue: connections with many requests wait in it for their turn.
        running: returns whether requests are executed: not while the runtime starts.
        opened: called with a new connection.
        ended: called with a connection that has ended.
        scratch: the buffer into which all connections read from their sockets.
    """

    dispatcher: Dispatcher
    notifications: Notifications
    queue: FairQueue
    running: Callable[[], bool]
    opened: Callable[[Connection], object]
    ended: Callable[[Connection], object]
    scratch: memoryview


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection, from the first byte to the last.

    Attributes:
        unwatched: the error of epoll_ctl(2), if the socket could not be watched. It is closed then.
    """

    def __init__(self, service: Service, access: Access, peer: Peer | None = None) -> None:
        """Serve a connection; `peer` is given for containers, else it is read from the socket."""
        self._service = service
        self._access = access
        self._routes = service.dispatcher.routes
        self.peer = peer or Peer(None)
        self._loop = asyncio.get_running_loop()
        self._caller = Caller(self.peer, access.options.token_validity)
        self._lines = Lines(
            access.options, access.memory, service.queue, self.advance, self._refuse
        )
        self._small = service.scratch[:ALLOWANCE]
        self._decode: Callable[[bytes], Message | None] = api.decode
        # Set after the first request: then the connection is open, and the runtime has started.
        self._prepared: Prepare | None = None
        self._connected = False
        self._closing = False
        self._writable = True
        self._reading = False
        self.unwatched: OSError | None = None
        self._task: asyncio.Task[None] | None = None
        self._package: IncomingPackage | None = None
        self._channel: Channel | None = None
        self._late_stream = False
        self._uncounted = False
        self._subscription: Subscription | None = None
        self._timeout: Timer | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._closed = self._loop.create_future()
        self._transport: asyncio.Transport

    # Called by the event loop --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        # asyncio would start reading itself, and its failure would not be reported.
        self._transport.pause_reading()
        permissions = describe(self._access.permissions)
        if self.peer.container is None:
            self.peer = Peer(None, address(transport.get_extra_info("peername")))
            self._caller = self._caller._replace(peer=self.peer)
            self._lines.owner = owner(transport.get_extra_info("socket"))
            log.debug("Client %s connected with permissions %s", self.peer, permissions)
        else:
            self._lines.owner = self.peer.container
            log.debug(
                "Container %s connected with permissions %s", self.peer.container, permissions
            )
        if self._access.connect_timeout is not None:
            self._timeout = Timer(self._access.connect_timeout, self._connect_timed_out)
        self._service.opened(self)
        self._read(True)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to read into. Not called while reading is paused for lack of room."""
        del sizehint
        if self._connected and not self._lines.buffer and self._package is None:
            return self._small  # the usual case
        return self._service.scratch[: self._room()]

    def buffer_updated(self, nbytes: int) -> None:
        """Process bytes of a package or of lines."""
        if self._closing:
            return
        if nbytes <= SMALL and self._prepared is not None and self._answer_at_once(nbytes):
            return
        data = self._service.scratch[:nbytes]
        if self._package is not None and self._package.missing:
            self._package.feed(bytes(data))
            self._regulate()
        else:
            self._lines.feed(data)
            self.advance()

    def _answer_at_once(self, nbytes: int) -> bool:
        """Answer a request that was read alone, if it needs neither a buffer nor a task.

        This is what a client that waits for each answer makes the runtime do. It does the same as
        `advance`, at a third of the cost.

        Returns:
            False if nothing was done.
        """
        lines = self._lines
        if (
            lines.buffer
            or lines.waiting
            or self._task is not None
            or not self._writable
            or self._late_stream
        ):
            return False
        assert self._prepared is not None
        try:
            found = self._prepared(bytes(self._small[:nbytes]))
            if (
                found is None
                or not found.needed <= self._access.permissions
                or not lines.admit(nbytes)
            ):
                return False
            self._write(found.handler(found.request, self._caller))
        except Exception:
            log.exception("%s: internal error, closing the connection", self.peer)
            self.close()
        return True

    def eof_received(self) -> bool:
        """Process what was received; the peer may still read answers."""
        self._lines.ended = True
        if self._package is not None:
            self._package.end()
        if self._channel is not None:
            # At once: lines that were received may wait for a process that does not read.
            self._channel.end()
        self.advance()
        return True

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._writable = False
        self._access.memory.output.update(self)
        if self._subscription is not None:
            self._subscription.pause()
        if self._channel is not None:
            self._channel.pause()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._writable = True
        self._access.memory.output.remove(self)
        if self._subscription is not None:
            self._subscription.resume()
        if self._channel is not None:
            self._channel.resume()
        self.advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything. A request that runs is completed, its answer is dropped."""
        if not self._closing:
            log.debug("%s: connection lost: %s", self.peer, exc or "end of the stream")
        self._stop()
        self._access.memory.output.remove(self)
        if self._package is not None:
            self._package.end()
        if not self._closed.done():
            self._closed.set_result(None)
        self._service.ended(self)

    # Called by the console -----------------------------------------------------------------

    def close(self) -> None:
        """Close the connection when its output is read, or after `CLOSE_TIMEOUT`."""
        if self._closing:
            return
        self._stop()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._timeout = Timer(CLOSE_TIMEOUT, self._transport.abort)

    @property
    def answering(self) -> asyncio.Task[None] | None:
        """The request that runs, unless it waits for its client."""
        waits = self._channel is not None or (self._package is not None and self._package.missing)
        return None if waits else self._task

    async def wait_closed(self) -> None:
        """Wait until the connection has ended and the running request is completed."""
        await asyncio.shield(self._closed)
        if self._task is not None:
            await asyncio.wait([self._task])

    def abort(self) -> None:
        """Close the connection at once; output that the peer has not read is dropped."""
        self._stop()
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    def _stop(self) -> None:
        """Process no more requests and send no more notifications."""
        self._closing = True
        self._lines.stop()
        if self._task is None:
            self._lines.done()
        if self._subscription is not None:
            self._subscription.close()
        if self._channel is not None:
            self._channel.lost()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    # Input ---------------------------------------------------------------------------------

    def advance(self) -> None:
        """Process lines until one must wait, then read on if there is room."""
        lines = self._lines
        if not lines.waiting and not self._closing:
            for _ in range(TURN):
                if self._blocked() or not self._handle_next() or lines.waiting:
                    break
            else:
                lines.wait_for_turn()
        if lines.buffer or not self._reading or self._package is not None:
            self._regulate()  # otherwise the buffer is empty, and reading continues

    def _blocked(self) -> bool:
        """Return whether the next line must wait even if it is complete."""
        if self._channel is not None and self._channel.reads:
            return self._channel.is_full or self._closing
        return (
            self._task is not None
            or not self._writable
            or self._closing
            or (self._connected and not self._service.running())
        )

    def _handle_next(self) -> bool:
        """Process the next line; return False if there is none, or it must wait."""
        lines = self._lines
        try:
            streams = self._channel is not None
            # Messages that were sent before the end of an exec are none of the requests' rate.
            line = lines.take(counted=not (streams or self._uncounted))
            if line is None:
                if lines.ended and not lines.buffer:
                    self._end_of_stream()
                return False
            self._handle(self._decode(line))
        except (LineTooLongError, ProtocolError) as error:
            self._refuse(str(error))
        except Exception:
            log.exception("%s: internal error, closing the connection", self.peer)
            self.close()
        if self._task is None or streams:
            lines.done()
        return True

    def _room(self) -> int:
        """Return how many bytes may be read now."""
        if self._package is not None and self._package.missing:
            return self._package.room
        return self._lines.room()

    def _regulate(self) -> None:
        """Read while there is room. For an incomplete long line, request its memory first."""
        if self._closing or self._lines.ended:
            return
        room = self._room()
        if room <= 0 and self._package is None:
            if not self._lines.waiting and not self._blocked():
                self._lines.reserve_line()
            room = self._lines.room()
        self._read(room > 0)

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if not wanted:
                self._transport.pause_reading()
                self._watch_peer()
                return
            try:
                self._transport.resume_reading()
            except OSError as error:
                log.error("%s: cannot watch the connection: %s", self.peer, error.strerror)
                self.unwatched = error
                self.abort()

    def _refuse(self, reason: str) -> None:
        log.warning("%s: %s, closing the connection", self.peer, reason)
        if self._caller.extended:
            # 0.9.2 closes without a word, so a plain connection is.
            self._send(Closing(cut(reason, REASON_MAX)))
        self.close()

    def _end_of_stream(self) -> None:
        if self._channel is not None:
            self._channel.end()
            return
        if self._connected:
            log.debug("%s: disconnected", self.peer)
        else:
            log.info("%s: end of the stream before connect", self.peer)
        self.close()

    def _connect_timed_out(self) -> None:
        log.info("%s: no connect within %g s, closing", self.peer, self._access.connect_timeout)
        self.close()

    # Messages ------------------------------------------------------------------------------

    def _handle(self, message: Message | None) -> None:
        route = self._routes.get(type(message))
        if isinstance(message, ClientStream) and self._connected:
            self._stream(message)
        elif self._channel is not None:
            self._refuse(f"{type(message).__name__} where stream is expected")
        elif route is not None and self._connected:
            if self._uncounted:
                self._lines.count()
            self._late_stream = self._uncounted = False
            self._request(cast("Request", message), route)
        elif isinstance(message, Connect) and not self._connected:
            self._connect(message)
        else:
            wanted = "a request" if self._connected else "connect"
            found = "an unknown notification" if message is None else type(message).__name__
            self._refuse(f"{found} where {wanted} is expected")

    def _connect(self, message: Connect) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        reason: InvalidProtocolVersion | PermissionDenied
        if message.version[:2] < API_VERSION[:2]:
            reason = InvalidProtocolVersion(API_VERSION)
            log.warning("%s: protocol version %s is too old", self.peer, message.version)
        elif (
            message.subscribe_notifications
            and Permission.NOTIFICATIONS not in self._access.permissions
        ):
            reason = PermissionDenied()
            log.warning("%s: no permission to subscribe to notifications", self.peer)
        else:
            self._connected = True
            self._lines.connected()
            extended = message.extended is True
            if extended:
                self._decode = api.decode_extended
                self._caller = self._caller._replace(extended=True)
            self._send(ConnectAck(Features(FEATURES) if extended else None))
            if message.subscribe_notifications:
                self._subscription = self._service.notifications.subscribe(
                    self._write, self._too_far_behind, extended=extended
                )
            return
        self._send(ConnectNack(reason))
        self.close()

    def _stream(self, message: ClientStream) -> None:
        """Process a message for the exec'ed process; drop one that was sent before its end."""
        if self._channel is not None:
            self._channel.feed(message)
        elif not self._late_stream:
            self._refuse("stream without an exec")

    def _request(self, request: Request, route: Route) -> None:
        """Answer the request, or create a task that does."""
        self._prepared = self._service.dispatcher.prepared[self._caller.extended]
        allowed = requests.permissions(request) <= self._access.permissions
        if isinstance(route, Upload):
            self._receive(cast("requests.Install | requests.Update", request), route, allowed)
        elif not allowed:
            self._send(responses.PermissionDenied(request))
            # Messages may follow it, which are dropped. Unlike those of an exec they are counted.
            self._late_stream = isinstance(route, Exchange) and route.reads
        elif isinstance(route, Encoded):
            self._write(route.handler(request, self._caller))
            if route.turn and self._lines.buffer and not self._lines.waiting:
                self._lines.wait_for_turn()
        elif isinstance(route, Immediate):
            self._send(route.handler(request, self._caller))
            if route.then is not None:
                route.then()
        elif isinstance(route, Exchange):
            self._exchange(request, route)
        else:
            self._begin(route.handler(request, self._caller))

    def _begin(self, answer: Coroutine[Any, Any, Response]) -> None:
        """Send an answer now, or in a task if it must wait."""
        try:
            answered = first_step(answer)
            if isinstance(answered, Ended):
                self._send(answered.result)
                if self._lines.buffer:
                    # It may have taken as long as many other requests.
                    self._lines.wait_for_turn()
                return
        except Exception:
            log.exception("%s: internal error, closing the connection", self.peer)
            self.close()
            return
        self._task = self._loop.create_task(self._serve(lambda: answered))

    async def _serve(self, answer: Callable[[], Awaitable[Response | None]]) -> None:
        """Await an answer and send it; it is None if the connection is closed instead."""
        try:
            response = await answer()
            if response is not None:
                self._send(response)
        except asyncio.CancelledError:
            # Answers carry no id: the client would take the next answer for this one.
            self.close()
            raise
        except Exception:
            log.exception("%s: internal error, closing the connection", self.peer)
            self.close()
        finally:
            self._task = None
            self._lines.done()
            self.advance()

    def _exchange(self, request: Request, route: Exchange) -> None:
        channel = Channel(self._send, self.advance, reads=route.reads, release=self._lines.done)
        self._channel = channel
        if not self._writable:
            channel.pause()
        if self._lines.ended:
            channel.end()
        elif not self._reading:
            self._watch_peer()
        # Its memory is not held until the answer, which may be hours away.
        held = [request]

        async def answer() -> Response:
            try:
                return await route.handler(held.pop(), self._caller, channel)
            finally:
                self._channel = None
                # The client may have sent more before it received the answer.
                self._late_stream = self._uncounted = route.reads

        self._task = self._loop.create_task(self._serve(answer))

    def _watch_peer(self) -> None:
        """End the channel when the peer closes its end while nothing is read from it.

        Nothing is read while a process does not take its input, and epoll(7) through asyncio
        reports the end of a stream only to who reads it.
        """
        if self._channel is None or self._channel.ended or self._reading or self._closing:
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._channel.end()
        elif self._watch is None:
            self._watch = self._loop.call_later(WATCH_INTERVAL, self._watch_again)

    def _watch_again(self) -> None:
        self._watch = None
        self._watch_peer()

    # Packages ------------------------------------------------------------------------------

    def _receive(
        self, request: requests.Install | requests.Update, route: Upload, allowed: bool
    ) -> None:
        options = self._access.options
        if request.size > options.max_npk_install_size:
            limit = options.max_npk_install_size
            self._refuse(
                f"a package of {request.size} bytes is larger than {limit}, the limit of "
                "max_npk_install_size"
            )
            return
        package = IncomingPackage(
            request.size, options.npk_stream_timeout, self._access.memory.packages, self._regulate
        )
        self._package = package
        package.feed(self._lines.cut(request.size))
        if self._lines.ended:
            package.end()
        permitted = route if allowed else None
        self._task = self._loop.create_task(
            self._serve(lambda: self._store_package(request, permitted, package))
        )

    async def _store_package(
        self,
        request: requests.Install | requests.Update,
        route: Upload | None,
        package: IncomingPackage,
    ) -> Response | None:
        """Store the package; without a route it is not permitted, and discarded."""
        try:
            if route is not None:
                return await route.handler(request, package)
            await package.discard()
            return responses.PermissionDenied(request)
        except StreamTimeoutError:
            timeout = self._access.options.npk_stream_timeout
            self._refuse(f"no byte of the package received for {timeout:g} s")
        except StreamEndedError:
            log.warning("%s: the stream ended within a package", self.peer)
            text = "the stream ended before the package was complete"
            if route is not None:
                self._send(route.failed(errors.Unexpected(text)))
            self.close()
        finally:
            self._package = None
            package.close()
        return None

    # Output --------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._write(api.encode(message))

    def _write(self, line: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(line)
            if not self._writable:
                self._access.memory.output.update(self)

    def unread(self) -> int:
        """Return the bytes of output that the peer has not read."""
        return self._transport.get_write_buffer_size()

    def close_unread(self) -> None:
        """Close the connection to free the memory of its unread output."""
        self._drop(
            f"{self.unread()} bytes are unread, and the output of all connections exceeds its limit"
        )

    def _too_far_behind(self) -> None:
        self._drop(f"more than {self._service.notifications.buffer_size} notifications behind")

    def _drop(self, reason: str) -> None:
        """Close the connection at once: its peer does not read, so waiting is useless."""
        log.warning("%s: %s, closing the connection", self.peer, reason)
        self._stop()
        self._transport.abort()
