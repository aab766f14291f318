"""One connection of the console: lines in, one answer after the other out, within its limits.

A protocol and no stream: a small request is read, answered and written in one callback, which
costs half of what a task per connection does. Only what must wait runs in a task.

Everything that a peer can make us keep is bounded: input (reading stops while requests wait),
output (requests are not worked off while answers are not read), notifications (their bound). What
is more than a few KiB counts for all connections together, see `memory`. So not more is read from
a socket than there is room for: hence a BufferedProtocol.

Notifications that queue for several subscribers are the same objects, and each subscriber's queue
ends with the latest one. So all queues together hold no more lines than one may.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, NamedTuple, cast, get_args

from northstar import api
from northstar.api import error as errors
from northstar.api import request as requests
from northstar.api import response as responses
from northstar.api.message import (
    API_VERSION,
    Connect,
    ConnectAck,
    ConnectNack,
    InvalidProtocolVersion,
    Message,
    PermissionDenied,
)
from northstar.api.request import Request
from northstar.api.response import Response
from northstar.deadline.loop import Timer
from northstar.model import Permission, Permissions, ProtocolError
from northstar.model.permission import describe
from northstar.runtime.config import ConsoleOptions
from northstar.runtime.console.dispatch import (
    Dispatcher,
    Peer,
    address,
    install_result,
    owner,
    wire_error,
)
from northstar.runtime.console.memory import (
    ALLOWANCE,
    CONNECT_SIZE,
    EXECUTION,
    REQUEST,
    Memory,
    Reservation,
)
from northstar.runtime.console.turns import Turn, Turns
from northstar.runtime.console.upload import StreamEndedError, Upload
from northstar.runtime.events import Notifications, Subscription
from northstar.runtime.ratelimit import Budget, RateLimit

log = logging.getLogger("northstar.runtime.console")

CONNECT_TIMEOUT: Final = 10.0
"""Seconds in which a peer from outside has to say connect."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the peer to read what was written before the connection was closed."""

READ_AHEAD: Final = ALLOWANCE
"""Bytes of waiting requests from which on the socket is not read. A started line is read on, if
there is memory for it."""

WRITE_BUFFER: Final = ALLOWANCE
"""Bytes that the peer has not read from which on requests wait and notifications queue."""

TURN: Final = 16
"""Requests in a row, before other connections have their turn."""

LEAST_WAIT: Final = 0.01
"""Seconds that too many requests wait at least: those that are let through then go together."""

BYTES_RATE: Final = 4.0 * 2**20
BYTES_BURST: Final = 4.0 * 2**20
"""Bytes of requests in a second, and at once: a single long one takes as long as hundreds of the
usual ones, which never come near this. What is above waits; packages do not count."""

_REQUESTS: Final = frozenset(get_args(Request))


class Access(NamedTuple):
    """What a connection may do, and its limits.

    Attributes:
        connect_timeout: seconds, or None.
        memory: that it shares with all connections of its side.
    """

    permissions: Permissions
    options: ConsoleOptions
    connect_timeout: float | None
    memory: Memory


class Service(NamedTuple):
    """What all connections share.

    Attributes:
        turns: who works off many requests waits there for the next ones.
        running: tells whether requests are worked off: not while the runtime still starts.
        came: called with a connection that is made now.
        gone: called with a connection when it is over.
        scratch: what is read from a socket comes here first.
    """

    dispatcher: Dispatcher
    notifications: Notifications
    turns: Turns
    running: Callable[[], bool]
    came: Callable[[Connection], object]
    gone: Callable[[Connection], object]
    scratch: memoryview


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection, from the first byte to the last.

    Attributes:
        unwatched: why the kernel would not tell us of its bytes (epoll_ctl(2)), so that it is over.
    """

    def __init__(self, service: Service, access: Access, peer: Peer | None = None) -> None:
        """Serve a connection; `peer` is known for containers, else the socket tells it."""
        self._service = service
        self._access = access
        self.peer = peer or Peer(None)
        self._loop = asyncio.get_running_loop()
        self._rate = RateLimit(access.options.max_requests_per_sec)
        self._bytes = Budget(BYTES_RATE, BYTES_BURST)
        self._buffer = bytearray()
        self._searched = 0
        self._connected = False
        self._closing = False
        self._eof = False
        self._writable = True
        self._reading = False
        self.unwatched: OSError | None = None
        self._task: asyncio.Task[None] | None = None
        self._upload: Upload | None = None
        self._subscription: Subscription | None = None
        self._line_memory: Reservation | None = None
        self._request_memory: Reservation | None = None
        self._owner: Hashable = None
        self._timeout: Timer | None = None
        self._turn: asyncio.Handle | Turn | None = None
        self._closed = self._loop.create_future()
        self._transport: asyncio.Transport

    # Called by the event loop --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        # asyncio would begin to read by itself, where nobody sees that fail.
        self._transport.pause_reading()
        permissions = describe(self._access.permissions)
        if self.peer.container is None:
            self.peer = Peer(None, address(transport.get_extra_info("peername")))
            self._owner = owner(transport.get_extra_info("socket"))
            log.debug("Client %s connected with permissions %s", self.peer, permissions)
        else:
            self._owner = self.peer.container
            log.debug(
                "Container %s connected with permissions %s", self.peer.container, permissions
            )
        if self._access.connect_timeout is not None:
            self._timeout = Timer(self._access.connect_timeout, self._connect_timed_out)
        self._service.came(self)
        self._read(True)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to: as much as there is room for, one byte at least."""
        del sizehint
        # Reading is paused where there is no room, but a pass of the event loop may have begun.
        return self._service.scratch[: max(self._room(), 1)]

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes: of a package, or of lines."""
        if self._closing:
            return
        data = self._service.scratch[:nbytes]
        if self._upload is not None and not self._upload.complete:
            data = data[len(data) - len(self._upload.feed(bytes(data))) :]
            self._regulate()
        if data:
            self._buffer += data
            if self._line_memory is not None:
                self._line_memory.progress()
            self._advance()

    def eof_received(self) -> bool:
        """Work off what came; the peer may still read our answers."""
        self._eof = True
        if self._upload is not None:
            self._upload.end()
        self._advance()
        return True

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._writable = False
        self._access.memory.output.update(self)
        if self._subscription is not None:
            self._subscription.pause()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._writable = True
        self._access.memory.output.forget(self)
        if self._subscription is not None:
            self._subscription.resume()
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything. A request that runs goes on, its answer is lost."""
        if not self._closing:
            log.debug("%s: connection lost: %s", self.peer, exc or "end of the stream")
        self._shut()
        self._access.memory.output.forget(self)
        if self._upload is not None:
            self._upload.end()
        if not self._closed.done():
            self._closed.set_result(None)
        self._service.gone(self)

    # Called by the console -----------------------------------------------------------------

    def advance(self) -> None:
        """Work off what waits: the runtime is up now."""
        self._advance()

    def close(self) -> None:
        """Close the connection, after what is written was read or some seconds have passed."""
        if self._closing:
            return
        self._shut()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._timeout = Timer(CLOSE_TIMEOUT, self._transport.abort)

    async def wait_closed(self) -> None:
        """Wait until the connection is over, and the request that runs as well."""
        await asyncio.shield(self._closed)
        if self._task is not None:
            await asyncio.wait([self._task])

    def abort(self) -> None:
        """Close the connection at once, whatever is unread."""
        self._shut()
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    def _shut(self) -> None:
        """Take no more requests and send no more notifications."""
        self._closing = True
        self._buffer.clear()
        if self._task is None:
            self._release()
        if self._subscription is not None:
            self._subscription.close()
        if self._timeout is not None:
            self._timeout.cancel()
        if self._turn is not None:
            self._turn.cancel()
        self._timeout = self._turn = None

    # Lines ---------------------------------------------------------------------------------

    def _advance(self, *, own_turn: bool = False) -> None:
        """Work off lines until something must wait, then see whether to read on."""
        if own_turn:
            self._turn = None
        if self._turn is None and not self._closing:
            for _ in range(TURN):
                if self._blocked() or not self._take_line() or self._turn is not None:
                    break
            else:
                self._queue()
        self._regulate()

    def _queue(self) -> None:
        self._turn = self._service.turns.wait(self._my_turn)

    def _my_turn(self) -> None:
        self._advance(own_turn=True)

    def _blocked(self) -> bool:
        """The next line has to wait, however complete it is."""
        return (
            self._closing
            or self._task is not None
            or not self._writable
            or (self._request_memory is not None and not self._request_memory.granted)
            or (self._connected and not self._service.running())
        )

    def _take_line(self) -> bool:
        """Handle the next line; False if there is none, or it has to wait."""
        end = self._buffer.find(b"\n", self._searched)
        limit = self._limit()
        length = end if end >= 0 else len(self._buffer)
        if length > limit:
            self._refuse(f"a line is longer than {limit} bytes")
            return False
        if end < 0 and not (self._eof and self._buffer):
            self._searched = length
            if self._eof:
                self._end_of_stream()
            return False
        if self._line_memory is not None:
            self._line_memory.complete()
        if not self._may_execute(length):
            return False
        delay = self._rate.delay(self._loop.time())
        if delay > 0.0:
            self._turn = self._loop.call_later(max(delay, LEAST_WAIT), self._queue)
            return False
        line = bytes(self._buffer[:length])
        del self._buffer[: length + 1]
        self._searched = 0
        delay = self._bytes.spend(length, self._loop.time())
        if delay > 0.0:
            self._turn = self._loop.call_later(delay, self._queue)
        try:
            self._handle(api.decode(line))
        except ProtocolError as error:
            self._refuse(str(error))
        except Exception:
            log.exception("%s: internal error, closing the connection", self.peer)
            self.close()
        if self._task is None:
            self._release()
        return True

    def _may_execute(self, length: int) -> bool:
        """Reserve what the execution of a long request takes; False if it has to wait for that."""
        if length <= REQUEST or not self._connected:
            return True
        if self._request_memory is None:
            self._request_memory = self._access.memory.requests.reserve(
                EXECUTION * length, self._owner, self._advance
            )
        return self._request_memory.granted

    def _limit(self) -> int:
        """Return the size of the longest line, without its end."""
        limit = self._access.options.max_request_size
        return limit if self._connected else min(limit, CONNECT_SIZE)

    def _room(self) -> int:
        """Return how many bytes may be read now."""
        if self._upload is not None and not self._upload.complete:
            return self._upload.room
        if self._line_memory is not None and self._line_memory.granted:
            # In pieces: what comes behind the line must be within the allowance again.
            return min(self._limit() + 1 - len(self._buffer), ALLOWANCE)
        return min(self._limit() + 1 if not self._connected else ALLOWANCE, ALLOWANCE) - len(
            self._buffer
        )

    def _regulate(self) -> None:
        """Stop reading while enough waits; always read what completes the next line."""
        if self._closing or self._eof:
            return
        room = self._room()
        waits = self._turn is not None or self._blocked()
        if room <= 0 and not waits and self._line_memory is None and self._upload is None:
            self._line_memory = self._access.memory.lines.reserve(
                self._limit(), self._owner, self._regulate, self._line_timed_out
            )
            room = self._room()
        self._read(room > 0)

    def _release(self) -> None:
        if self._line_memory is not None:
            self._line_memory.release()
            self._line_memory = None
        if self._request_memory is not None:
            self._request_memory.release()
            self._request_memory = None

    def _line_timed_out(self) -> None:
        self._refuse("the rest of a long line does not come, and others wait for its memory")

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if not wanted:
                self._transport.pause_reading()
                return
            try:
                self._transport.resume_reading()
            except OSError as error:
                log.error("%s: cannot watch the connection: %s", self.peer, error.strerror)
                self.unwatched = error
                self.abort()

    def _refuse(self, reason: str) -> None:
        log.warning("%s: %s, closing the connection", self.peer, reason)
        self.close()

    def _end_of_stream(self) -> None:
        if self._connected:
            log.debug("%s: disconnected", self.peer)
        else:
            log.info("%s: end of the stream before connect", self.peer)
        self.close()

    def _connect_timed_out(self) -> None:
        log.info("%s: no connect within %g s, closing", self.peer, self._access.connect_timeout)
        self.close()

    # Messages ------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        if type(message) in _REQUESTS and self._connected:
            self._request(cast("Request", message))
        elif isinstance(message, Connect) and not self._connected:
            self._connect(message)
        else:
            wanted = "a request" if self._connected else "connect"
            self._refuse(f"{type(message).__name__} where {wanted} is expected")

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
            self._send(ConnectAck())
            if message.subscribe_notifications:
                self._subscription = self._service.notifications.subscribe(
                    self._write, self._behind
                )
            return
        self._send(ConnectNack(reason))
        self.close()

    def _request(self, request: Request) -> None:
        """Answer, or begin a task that does."""
        allowed = requests.permission(request) in self._access.permissions
        if isinstance(request, requests.Install):
            self._begin_upload(request, allowed)
        elif not allowed:
            self._send(responses.PermissionDenied(request))
        elif isinstance(request, requests.Shutdown):
            # The response first: the shutdown is announced to all subscribers, and they to us.
            self._send(responses.Shutdown())
            self._service.dispatcher.operations.shutdown()
        else:
            response = self._service.dispatcher.immediate(
                request, self.peer, self._access.options.token_validity
            )
            if response is not None:
                self._send(response)
            else:
                dispatcher = self._service.dispatcher
                self._task = self._loop.create_task(self._serve(lambda: dispatcher.run(request)))

    async def _serve(self, answer: Callable[[], Awaitable[Response | None]]) -> None:
        """Send an answer as soon as it is there; None if the connection is closed instead."""
        try:
            response = await answer()
            if response is not None:
                self._send(response)
        except asyncio.CancelledError:
            # Without this answer the next one would be taken for it.
            self.close()
            raise
        except Exception:
            log.exception("%s: internal error, closing the connection", self.peer)
            self.close()
        finally:
            self._task = None
            self._release()
            self._advance()

    # Packages ------------------------------------------------------------------------------

    def _begin_upload(self, request: requests.Install, allowed: bool) -> None:
        options = self._access.options
        if request.size > options.max_npk_install_size:
            limit = options.max_npk_install_size
            self._refuse(f"a package of {request.size} bytes is larger than {limit}")
            return
        memory = self._access.memory.packages
        upload = Upload(request.size, options.npk_stream_timeout, memory, self._regulate)
        self._upload = upload
        rest = upload.feed(bytes(self._buffer))
        self._buffer[:] = rest
        if self._eof:
            upload.end()
        answer = functools.partial(self._take_upload, request, upload, allowed)
        self._task = self._loop.create_task(self._serve(answer))

    async def _take_upload(
        self, request: requests.Install, upload: Upload, allowed: bool
    ) -> Response | None:
        try:
            if allowed:
                return responses.Install(await self._install(request, upload))
            while await upload.chunk():
                pass
            return responses.PermissionDenied(request)
        except TimeoutError:
            timeout = self._access.options.npk_stream_timeout
            self._refuse(f"no byte of a package for {timeout:g} s")
        except StreamEndedError:
            log.warning("%s: the stream ended within a package", self.peer)
            text = "the stream ended before the package was complete"
            if allowed:
                self._send(responses.Install(responses.InstallFailed(errors.Unexpected(text))))
            self.close()
        finally:
            self._upload = None
            upload.close()
        return None

    async def _install(
        self, request: requests.Install, upload: Upload
    ) -> responses.Ok | responses.InstallFailed:
        """Store a package. All its bytes are taken, whatever fails."""
        what = f"install into {request.repository}"
        result: responses.Ok | responses.InstallFailed | None = None
        installation = None
        try:
            try:
                installation = await self._service.dispatcher.operations.begin_install(
                    request.repository, request.size
                )
            except Exception as error:
                result = responses.InstallFailed(wire_error(error, what))
            while chunk := await upload.chunk():
                if installation is None or result is not None:
                    continue
                try:
                    await installation.write(chunk)
                except Exception as error:
                    result = responses.InstallFailed(wire_error(error, what))
                    # What came is of no use: give its space back before the rest has come.
                    await installation.abort()
            if installation is not None and result is None:
                result = await install_result(installation, request.repository)
        finally:
            if installation is not None and not isinstance(result, responses.Ok):
                await installation.abort()
        if result is None:
            raise AssertionError("an install without a result")
        return result

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

    def give_up(self) -> None:
        """Close the connection, whose output takes the memory of others."""
        log.warning(
            "%s: does not read %d bytes, and all output together is too much, "
            "closing the connection",
            self.peer,
            self.unread(),
        )
        self._shut()
        self._transport.abort()

    def _behind(self) -> None:
        log.warning(
            "%s: more than %d notifications behind, closing the connection",
            self.peer,
            self._service.notifications.buffer_size,
        )
        # It does not read: there is nothing to wait for.
        self._shut()
        self._transport.abort()
