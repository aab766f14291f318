"""The Unix sockets that a manifest declares: made by the runtime, passed to the payload."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Final

import msgspec

from northstar.manifest import Socket, SocketType
from northstar.model import Container, LaunchError

_BACKLOG: Final = 128

_TYPES: Final = {
    SocketType.STREAM: socket.SOCK_STREAM,
    SocketType.DATAGRAM: socket.SOCK_DGRAM,
    SocketType.SEQ_PACKET: socket.SOCK_SEQPACKET,
}


class Listener(msgspec.Struct, frozen=True):
    """A bound socket and its file."""

    socket: socket.socket
    path: str

    def unlink(self) -> None:
        """Remove the socket's file; one that is gone is no error."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def open_listener(directory: str, container: Container, name: str, config: Socket) -> Listener:
    """Make one socket of a container: bound, with the mode and owner it asks for, listening.

    Raises:
        LaunchError: a step failed; no file is left.
    """
    path = os.path.join(directory, f"{container}:{name}")
    sock = socket.socket(socket.AF_UNIX, _TYPES[config.type])
    listener = Listener(sock, path)
    try:
        _remove_stale(path)
        # The mode of the file that bind(2) makes, less the umask (unix_bind in af_unix.c): a
        # datagram socket can be reached before the mode of the manifest is set.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        try:
            _configure(sock, path, config)
        except BaseException:
            listener.unlink()
            raise
    except OSError as failure:
        sock.close()
        # Python refuses a path that does not fit into sockaddr_un without an errno.
        reason = "" if failure.errno else str(failure)
        raise LaunchError("make the socket", path, failure.errno or 0, reason) from failure
    except BaseException:
        sock.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def _configure(sock: socket.socket, path: str, config: Socket) -> None:
    # The owner first: chown(2) may clear bits of the mode.
    if config.uid is not None or config.gid is not None:
        unchanged = -1
        os.chown(
            path,
            unchanged if config.uid is None else config.uid,
            unchanged if config.gid is None else config.gid,
        )
    os.chmod(path, config.mode)
    if config.passcred:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    if config.type is not SocketType.DATAGRAM:
        sock.listen(_BACKLOG)
