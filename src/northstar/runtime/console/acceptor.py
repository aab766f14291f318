"""The console's listening socket: opening it, and accepting connections at a limited rate."""

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
"""Connections in the backlog of listen(2). When it is full, non-blocking connects fail."""

ACCEPTS_PER_PASS: Final = 8
"""Connections accepted before established connections are served again."""

RATE: Final = 100.0
BURST: Final = 256.0
"""Open connections that are served per second, and in a burst. A short connection costs as much as
twenty requests, and a client can evade the limits of a connection by opening a new one: this limit
prevents that."""

CHECK_RATE: Final = 0.1
CHECK_BURST: Final = 0.25
"""Seconds of processor time, per second and in a burst, for accepting connections and checking
whether they are still open. A check takes 20 to 200 microseconds, so thousands of closed
connections delay no other client, and a flood of them costs a tenth of a processor."""

MIN_PAUSE: Final = 0.01
"""Shortest pause, in seconds, when that time is used up."""

FINISHED: Final = 4096
"""Maximum number of waiting connections whose peers have finished sending."""

RETRY: Final = 1.0
"""Seconds until accept is tried again after it failed for lack of descriptors or memory."""


class ConsoleError(NorthstarError):
    """The console cannot listen."""


class _Peer(Enum):
    OPEN = auto()
    """The peer may send more."""
    FINISHED = auto()
    """The peer has sent a connect message and will send nothing more; it may still read."""
    GONE = auto()
    """The connection is closed, and there is no request to answer."""


class Acceptor:
    """Accepts connections on a listening socket, which it owns.

    Connections are served at a limited rate (`RATE`). Only open ones count: a connection that is
    closed when it is accepted is dropped at once. So a client that opens and closes connections all
    the time does not delay other clients.

    A peer that has sent a connect message and finished sending (shutdown(2), or close(2), which
    TCP cannot distinguish from it) is served too, after all open connections.

    This is not an asyncio.Server: if that is closed between accepting a connection and creating its
    protocol, it loses the connection, and the client waits forever.
    """

    def __init__(
        self,
        listener: socket.socket,
        accepted: Callable[[socket.socket], object],
        may_accept: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin to accept.

        Args:
            listener: the socket.
            accepted: called with each connection, a non-blocking socket.
            may_accept: returns whether one more connection is allowed. If it has returned False,
                call `advance` when that changes.
        """
        self._listener = listener
        self._accepted = accepted
        self._may_accept = may_accept
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False
        self._full = False
        self._rate = TokenBucket(RATE, BURST)
        self._check_time = TokenBucket(CHECK_RATE, CHECK_BURST)
        self._log_rate = TokenBucket(RATE, BURST)
        self._not_logged = 0
        self._next_serve = self._loop.time()
        self._pending: socket.socket | None = None
        self._finished: deque[socket.socket] = deque()
        # More would use up the descriptors that containers need.
        self._max_finished = min(FINISHED, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._watch(True)

    def close(self) -> None:
        """Stop listening. The file of a Unix socket stays."""
        if self._timer is not None:
            self._timer.cancel()
        self._watch(False)
        self._listener.close()
        for sock in (self._pending, *self._finished):
            if sock is not None:
                sock.close()
        self._pending = None
        self._finished.clear()

    def advance(self) -> None:
        """Continue after `may_accept` returned False; does nothing otherwise."""
        if self._full:
            self._full = False
            self._advance()

    def _watch(self, wanted: bool) -> None:
        """Register or unregister `_advance` as the event loop's callback for new connections."""
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
        """Accept nothing for some seconds, then continue."""
        self._watch(False)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._advance)

    def _advance(self) -> None:
        """Accept some connections, drop or serve them, and schedule the next call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        begun = time.thread_time()
        failed = not self._accept_some()
        if self._full:
            self._watch(False)
            return
        now = self._loop.time()
        delay = self._check_time.spend(time.thread_time() - begun, now)
        if delay > 0.0:
            delay = max(delay, MIN_PAUSE)
        if failed:
            delay = max(delay, RETRY)
        if self._pending is not None:
            delay = max(delay, self._next_serve - now)
        elif not delay and self._finished:
            # Only finished connections wait. A client that connects meanwhile is served first.
            self._timer = self._loop.call_later(max(self._next_serve - now, 0.0), self._advance)
        if delay > 0.0 or self._pending is not None:
            self._pause(delay)
        else:
            self._watch(True)

    def _accept_some(self) -> bool:
        """Accept until no connection waits or a pause is due; return False if accept fails."""
        for _ in range(ACCEPTS_PER_PASS):
            if not self._serve_pending():
                return True
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:
                # The listener stays readable: without a pause this would be a busy loop.
                log.error("Cannot accept a connection: %s", error.strerror)
                return False
            sock.setblocking(False)
            state = self._check(sock, peer)
            if state is _Peer.FINISHED and len(self._finished) < self._max_finished:
                self._finished.append(sock)
            elif state is not _Peer.GONE:
                self._pending = sock
        if self._serve_pending() and self._finished and self._may_serve():
            self._serve(self._finished.popleft())
        return True

    def _serve_pending(self) -> bool:
        """Serve the accepted connection that waits, if any; return False if it must wait longer."""
        sock = self._pending
        if sock is None:
            return True
        if self._loop.time() < self._next_serve:
            return False
        # It may have been closed while it waited.
        self._pending = None
        if self._check(sock, None) is not _Peer.GONE:
            if not self._may_serve():
                self._pending = sock
                return False
            self._serve(sock)
        return True

    def _may_serve(self) -> bool:
        self._full = not self._may_accept()
        return not self._full and self._loop.time() >= self._next_serve

    def _serve(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            # A peer that lost its power closes nothing: keepalive detects that after some hours.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # An answer right after a notification must not wait for the peer's delayed ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = self._loop.time()
        self._next_serve = now + self._rate.spend(1.0, now)
        self._accepted(sock)

    def _check(self, sock: socket.socket, peer: object) -> _Peer:
        """Return the state of the peer; if that is GONE, close the connection and log it."""
        reason = None
        try:
            state, data = _state(sock)
            if state is _Peer.FINISHED and (reason := _connect_error(data)) is not None:
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
        """Log a dropped connection as `Connection` would, at the rate at which those are served."""
        if self._log_rate.left(self._loop.time()) < 1.0:
            self._not_logged += 1
            return
        self._log_rate.spend(1.0, self._loop.time())
        name = Peer(None, address(peer))
        if self._not_logged:
            log.info("%d more connections were closed before they were served", self._not_logged)
            self._not_logged = 0
        if reason is None:
            log.info("%s: end of the stream before connect", name)
        else:
            log.warning("%s: %s, closing the connection", name, reason)


def _state(sock: socket.socket) -> tuple[_Peer, bytes]:
    """Return the state of a new connection's peer, and the first bytes that it sent.

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
        # After a reset the bytes before it can still be read, but no answer can be sent (tcp(7)).
        return _Peer.GONE if events & select.POLLERR else _Peer.FINISHED, data
    return _Peer.OPEN, data


def _connect_error(data: bytes) -> str | None:
    """Return why `data` does not begin with a connect message; None if it does."""
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
"""Calls a function with arguments in a thread, and returns its result."""


async def open_listener(
    config: GlobalConsole, blocking: Blocking = asyncio.to_thread
) -> socket.socket:
    """Return a listening socket.

    Args:
        config: the address, and the mode and group of a Unix socket.
        blocking: calls getaddrinfo(3) and getgrnam(3), which may query a server.

    Raises:
        ConsoleError: the socket cannot be opened.
        ConfigurationError: the group does not exist.
    """
    bind = config.bind
    if isinstance(bind, UnixAddress):
        gid = -1 if config.group is None else await blocking(_gid, config.group)
        _remove_stale_socket(bind.path)
        return _bind_and_listen(socket.AF_UNIX, bind.path, bind, _Access(config.mode, gid))
    try:
        found = await blocking(
            socket.getaddrinfo,
            bind.host,
            bind.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, UnicodeError) as error:
        # UnicodeError: a label of the host name is invalid.
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConsoleError(
            f"the console cannot listen on {bind}: {reason}",
            hint="check the host in console.global.bind",
        ) from error
    return _bind_and_listen(found[0][0], found[0][4], bind)


class _Access(NamedTuple):
    """Permission bits and group of a Unix socket's file; group -1 is left unchanged."""

    mode: int
    gid: int


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        # As chown(1): a numeric group needs no name.
        if group.isdecimal() and group.isascii() and int(group) < 2**32 - 1:
            return int(group)
        raise ConfigurationError(
            f"console.global.group: this machine has no group {group!r}",
            hint=f"create it (groupadd {group}), or set another one",
        ) from None


def _bind_and_listen(
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
                # A restart must not wait until the connections of the last run time out.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if access is not None:
                # bind(2) creates the file with this mode, less the umask (unix_bind in af_unix.c).
                # With chmod(2) alone it would have another mode for a moment.
                os.fchmod(sock.fileno(), 0o600 & access.mode)
            sock.bind(target)
            if access is not None:
                assert isinstance(target, str)
                _set_access(target, access)
            sock.listen(BACKLOG)
        except OSError as error:
            # "AF_UNIX path too long" has no errno.
            reason = error.strerror or str(error)
            raise ConsoleError(
                f"the console cannot listen on {bind}: {reason}", hint=_hint(error, bind)
            ) from error
        stack.pop_all()
        return sock


def _set_access(path: str, access: _Access) -> None:
    """Set group and mode of the socket's file, whatever the umask is.

    This uses a descriptor: chmod(2) on the path would follow a link that another process has put
    in place of the socket.

    Raises:
        OSError: a call failed; ENOTSOCK if the file is no socket.
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
    errno.EADDRINUSE: "another runtime or program uses it: end that, or bind to another address",
    errno.EADDRNOTAVAIL: "this machine has no such address: check console.global.bind",
    errno.ENOENT: "create the directory of the socket",
    errno.EACCES: "run as root, or bind to an address that this user may use",
}


def _hint(error: OSError, bind: TcpAddress | UnixAddress) -> str:
    if error.errno is None:
        return f"choose a path shorter than 108 bytes ({bind} has more)"
    return _HINTS.get(error.errno, "check console.global.bind")


def _remove_stale_socket(path: str) -> None:
    """Remove the socket that an earlier run left at `path`.

    Raises:
        ConsoleError: the file is no socket, or it cannot be removed.
    """
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ConsoleError(
                f"the console cannot listen on {path}: it is a directory",
                hint=f"name a file in it, as {path.rstrip('/')}/console",
            )
        if not stat.S_ISSOCK(mode):
            raise ConsoleError(
                f"the console cannot listen on {path}: the file exists and is no socket",
                hint="remove it, or bind to another path",
            )
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConsoleError(
            f"the console cannot listen on {path}: {error.strerror}",
            hint="bind to a path where this user may create and remove files",
        ) from error
