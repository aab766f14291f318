"""Listening for clients: the socket, and what may be in its way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from northstar.model import ConfigurationError, NorthstarError
from northstar.runtime.config import GlobalConsole, TcpAddress, UnixAddress
from northstar.runtime.ratelimit import Budget

log = logging.getLogger("northstar.runtime.console")

BACKLOG: Final = 1024
"""Connections that wait at the door. With no more room, clients that may not block fail."""

PER_TURN: Final = 8
"""Connections accepted before those who are in have their turn."""

RATE: Final = 100.0
BURST: Final = 256.0
"""Connections in a second, and at once. One that comes and goes costs as much as twenty requests,
and the limits of connections end with them: without this one they would mean nothing."""

RETRY: Final = 1.0
"""Seconds until accept is tried again when there are no descriptors or memory left for it."""


class ConsoleError(NorthstarError):
    """The console cannot listen."""


class Acceptor:
    """Accepts connections on a listening socket, which is its own.

    No asyncio.Server: that loses a connection which it has accepted when it is closed before the
    connection's protocol is made, and the client would wait for ever.
    """

    def __init__(
        self, listener: socket.socket, accepted: Callable[[socket.socket], object]
    ) -> None:
        """Call `accepted` with each connection, a socket that does not block."""
        self._listener = listener
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._budget = Budget(RATE, BURST)
        self._begin()

    def close(self) -> None:
        """Stop to listen. The file of a Unix socket stays."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _begin(self) -> None:
        self._retry = None
        try:
            self._loop.add_reader(self._listener, self._accept)
        except OSError as error:
            log.error("Cannot watch for connections: %s", error.strerror)
            self._pause(RETRY)

    def _accept(self) -> None:
        for _ in range(PER_TURN):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # The listener stays readable: without a pause we would spin.
                log.error("Cannot accept a connection: %s", error.strerror)
                self._pause(RETRY)
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                # A peer that lost its power says no goodbye: the kernel finds out, in some hours.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                # An answer right behind a notification must not wait for the peer's delayed ACK.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock)
            delay = self._budget.spend(1.0, self._loop.time())
            if delay > 0.0:
                self._pause(delay)
                return

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._retry = self._loop.call_later(seconds, self._begin)


Blocking = Callable[..., Awaitable[Any]]
"""Calls a function with arguments in a thread, and returns what that returns."""


async def open_listener(
    config: GlobalConsole, blocking: Blocking = asyncio.to_thread
) -> socket.socket:
    """Return a listening socket.

    Args:
        config: where, and who may connect.
        blocking: calls getgrnam(3) and getaddrinfo(3), which may ask a server.

    Raises:
        ConsoleError: there is none to be had.
        ConfigurationError: there is no such group.
    """
    bind = config.bind
    if isinstance(bind, UnixAddress):
        # getgrnam(3) may ask the network.
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
