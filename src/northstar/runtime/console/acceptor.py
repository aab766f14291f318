"""Listening for clients: the socket, and what may be in its way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import resource
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from northstar import api
from northstar.api.message import Connect
from northstar.model import ConfigurationError, NorthstarError, ProtocolError
from northstar.runtime.config import GlobalConsole, TcpAddress, UnixAddress
from northstar.runtime.console.memory import CONNECT_SIZE
from northstar.runtime.console.peer import Peer, address
from northstar.runtime.ratelimit import TokenBucket

log = logging.getLogger("northstar.runtime.console")

BACKLOG: Final = 1024
"""Connections that wait at the door. With no more room, clients that may not block fail."""

PER_TURN: Final = 8
"""Connections accepted before those who are in have their turn."""

RATE: Final = 100.0
BURST: Final = 256.0
"""Connections in a second, and at once, whose peers are there. One that comes and goes costs as
much as twenty requests, and the limits of connections end with them: without this one they would
mean nothing."""

LOOK_RATE: Final = 0.1
LOOK_BURST: Final = 0.25
"""Seconds of processor time, in a second and at once, for accepting connections and looking whether
their peers are there. A look takes 20 to 200 microseconds, so thousands of connections that were
closed already delay no other client, and a flood of them costs a tenth of a processor."""

LEAST_PAUSE: Final = 0.01
"""Seconds without a look at least, when that time is used up."""

FINISHED: Final = 4096
"""Connections that may wait because their peers have finished sending, at most."""

RETRY: Final = 1.0
"""Seconds until accept is tried again when there are no descriptors or memory left for it."""


class ConsoleError(NorthstarError):
    """The console cannot listen."""


class _Peer(Enum):
    OPEN = auto()
    """It may send more."""
    FINISHED = auto()
    """It has sent a connect, and will send nothing behind what is there; it may still read."""
    GONE = auto()
    """There is nothing that could be answered."""


class Acceptor:
    """Accepts connections on a listening socket, which is its own.

    Connections are served at a limited rate (`RATE`), but only those count whose peers are there:
    what is closed already when it is accepted is dropped at once. So a client that opens and closes
    connections all the time does not delay other clients.

    A peer that has finished sending (shutdown(2), or close(2), which TCP cannot tell from it) and
    has sent a connect is served too, after those that are still there.

    No asyncio.Server: that loses a connection which it has accepted when it is closed before the
    connection's protocol is made, and the client would wait for ever.
    """

    def __init__(
        self,
        listener: socket.socket,
        accepted: Callable[[socket.socket], object],
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        """Listen.

        Args:
            listener: the socket.
            accepted: called with each connection, a socket that does not block.
            room: tells whether there may be one more; `advance` is called when there is again.
        """
        self._listener = listener
        self._accepted = accepted
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False
        self._full = False
        self._rate = TokenBucket(RATE, BURST)
        self._looks = TokenBucket(LOOK_RATE, LOOK_BURST)
        self._lines = TokenBucket(RATE, BURST)
        self._not_logged = 0
        self._next = self._loop.time()
        self._held: socket.socket | None = None
        self._finished: deque[socket.socket] = deque()
        # More would take the descriptors that containers need.
        self._most_finished = min(FINISHED, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._watch(True)

    def close(self) -> None:
        """Stop to listen. The file of a Unix socket stays."""
        if self._timer is not None:
            self._timer.cancel()
        self._watch(False)
        self._listener.close()
        for sock in (self._held, *self._finished):
            if sock is not None:
                sock.close()
        self._held = None
        self._finished.clear()

    def advance(self) -> None:
        """Go on: there is room again. Costs nothing if there was."""
        if self._full:
            self._full = False
            self._advance()

    def _watch(self, wanted: bool) -> None:
        """Have the event loop call `_advance` when a client connects."""
        if wanted == self._watching:
            return
        self._watching = wanted
        if not wanted:
            self._loop.remove_reader(self._listener)
            return
        try:
            self._loop.add_reader(self._listener, self._advance)
        except OSError as error:
            self._watching = False
            log.error("Cannot watch for connections: %s", error.strerror)
            self._pause(RETRY)

    def _pause(self, seconds: float) -> None:
        """Do nothing for some seconds, and then go on."""
        self._watch(False)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._advance)

    def _advance(self) -> None:
        """Accept some connections, drop or serve them, and arrange for the next time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        begun = time.thread_time()
        failed = not self._accept_some()
        if self._full:
            self._watch(False)
            return
        now = self._loop.time()
        delay = self._looks.spend(time.thread_time() - begun, now)
        if delay > 0.0:
            delay = max(delay, LEAST_PAUSE)
        if failed:
            delay = max(delay, RETRY)
        if self._held is not None:
            delay = max(delay, self._next - now)
        elif not delay and self._finished:
            # Only these wait. A client that connects meanwhile is served before them.
            self._timer = self._loop.call_later(max(self._next - now, 0.0), self._advance)
        if delay > 0.0 or self._held is not None:
            self._pause(delay)
        else:
            self._watch(True)

    def _accept_some(self) -> bool:
        """Accept until no connection waits, or a pause is due; False if accept fails."""
        for _ in range(PER_TURN):
            if not self._serve_waiting():
                return True
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:
                # The listener stays readable: without a pause we would spin.
                log.error("Cannot accept a connection: %s", error.strerror)
                return False
            sock.setblocking(False)
            state = self._look(sock, peer)
            if state is _Peer.FINISHED and len(self._finished) < self._most_finished:
                self._finished.append(sock)
            elif state is not _Peer.GONE:
                self._held = sock
        if self._serve_waiting() and self._finished and self._may_serve():
            self._serve(self._finished.popleft())
        return True

    def _serve_waiting(self) -> bool:
        """Serve the connection that waits, if there is one; False if it must wait on."""
        sock = self._held
        if sock is None:
            return True
        if self._loop.time() < self._next:
            return False
        # While it waited it may have been closed.
        self._held = None
        if self._look(sock, None) is not _Peer.GONE:
            if not self._may_serve():
                self._held = sock
                return False
            self._serve(sock)
        return True

    def _may_serve(self) -> bool:
        self._full = not self._room()
        return not self._full and self._loop.time() >= self._next

    def _serve(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            # A peer that lost its power says no goodbye: the kernel finds out, in some hours.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # An answer right behind a notification must not wait for the peer's delayed ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = self._loop.time()
        self._next = now + self._rate.spend(1.0, now)
        self._accepted(sock)

    def _look(self, sock: socket.socket, peer: object) -> _Peer:
        """Look whether the peer is there, and close the connection if it is not."""
        reason = None
        try:
            state, data = _state(sock)
            if state is _Peer.FINISHED and (reason := _no_connect(data)) is not None:
                state = _Peer.GONE
        except OSError:
            state = _Peer.GONE  # reset
        if state is _Peer.GONE:
            if peer is None:
                with contextlib.suppress(OSError):
                    peer = sock.getpeername()
            sock.close()
            self._log_gone(peer, reason)
        return state

    def _log_gone(self, peer: object, reason: str | None) -> None:
        """Log it as the connection would, but no more than it could have been."""
        if self._lines.left(self._loop.time()) < 1.0:
            self._not_logged += 1
            return
        self._lines.spend(1.0, self._loop.time())
        name = Peer(None, address(peer))
        if self._not_logged:
            log.info("%d more connections were closed before they were served", self._not_logged)
            self._not_logged = 0
        if reason is None:
            log.info("%s: end of the stream before connect", name)
        else:
            log.warning("%s: %s, closing the connection", name, reason)


def _state(sock: socket.socket) -> tuple[_Peer, bytes]:
    """Return whether the peer of a fresh connection is there, and how its bytes begin.

    Raises:
        OSError: the connection is reset.
    """
    try:
        data = sock.recv(CONNECT_SIZE + 1, socket.MSG_PEEK)
    except BlockingIOError:
        return _Peer.OPEN, b""  # the usual case
    if not data:
        return _Peer.GONE, b""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    for _, events in poll.poll(0):
        # A reset comes with what was sent before it; no answer would be read (tcp(7)).
        return _Peer.GONE if events & select.POLLERR else _Peer.FINISHED, data
    return _Peer.OPEN, data


def _no_connect(data: bytes) -> str | None:
    """Return why bytes do not begin with a connect message; None if they do."""
    line = data.split(b"\n", 1)[0]
    if len(line) > CONNECT_SIZE:
        return f"a line is longer than {CONNECT_SIZE} bytes"
    try:
        message = api.decode(line)
    except ProtocolError as error:
        return str(error)
    if isinstance(message, Connect):
        return None
    return f"{type(message).__name__} where connect is expected"


Blocking = Callable[..., Awaitable[Any]]
"""Calls a function with arguments in a thread, and returns what that returns."""


async def open_listener(
    config: GlobalConsole, blocking: Blocking = asyncio.to_thread
) -> socket.socket:
    """Return a listening socket.

    Args:
        config: where, and who may connect.
        blocking: calls getaddrinfo(3) and getgrnam(3), which may ask a server.

    Raises:
        ConsoleError: there is none to be had.
        ConfigurationError: there is no such group.
    """
    bind = config.bind
    if isinstance(bind, UnixAddress):
        gid = -1 if config.group is None else await blocking(_gid, config.group)
        _clear(bind.path)
        return _listening(socket.AF_UNIX, bind.path, bind, _Access(config.mode, gid))
    try:
        found = await blocking(
            socket.getaddrinfo,
            bind.host,
            bind.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, UnicodeError) as error:
        # The latter is what a label that no name may have gives.
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConsoleError(
            f"the console cannot listen on {bind}: {reason}",
            hint="check the host in console.global.bind",
        ) from error
    return _listening(found[0][0], found[0][4], bind)


class _Access(NamedTuple):
    """Who may connect to a Unix socket: permission bits, and a group; -1 leaves the group."""

    mode: int
    gid: int


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        # As chown(1) takes it. A number need not have a name.
        if group.isdecimal() and group.isascii() and int(group) < 2**32 - 1:
            return int(group)
        raise ConfigurationError(
            f"console.global.group: this machine has no group {group!r}",
            hint=f"make it (groupadd {group}), or name another one",
        ) from None


def _listening(
    family: int,
    target: str | tuple[Any, ...],
    bind: TcpAddress | UnixAddress,
    access: _Access | None = None,
) -> socket.socket:
    with contextlib.ExitStack() as stack:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            stack.callback(sock.close)
            if family != socket.AF_UNIX:
                # A restart must not wait for the connections of the last run to time out.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if access is not None:
                # The file is made with this mode, less the umask (unix_bind in af_unix.c). chmod(2)
                # after bind(2) would leave a moment with another one.
                os.fchmod(sock.fileno(), 0o600 & access.mode)
            sock.bind(target)
            if access is not None:
                assert isinstance(target, str)
                _set_access(target, access)
            sock.listen(BACKLOG)
        except OSError as error:
            # "AF_UNIX path too long" comes without an errno.
            reason = error.strerror or str(error)
            raise ConsoleError(
                f"the console cannot listen on {bind}: {reason}", hint=_hint(error, bind)
            ) from error
        stack.pop_all()
        return sock


def _set_access(path: str, access: _Access) -> None:
    """Set group and mode of the socket's file, whatever the umask was.

    By a descriptor: chmod(2) follows a link that somebody has put into the place of the socket.

    Raises:
        OSError: a call failed; ENOTSOCK if there is something else.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)
        link = f"/proc/self/fd/{descriptor}"
        if access.gid >= 0:
            os.chown(link, -1, access.gid)
        os.chmod(link, access.mode)
    finally:
        os.close(descriptor)


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
