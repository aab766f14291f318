"""The Unix sockets that a manifest declares: bound here, made and listened on by the container.

Who calls socket(2) and listen(2) is seen by others: the network namespace is the maker's, the peer
of clients, with its pidfd and its user, is the listener. So it is the container: launch/plan.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import NamedTuple

from northstar.manifest import Socket
from northstar.model import Container, LaunchError


class BoundSocket(NamedTuple):
    """The file of a bound socket.

    Attributes:
        path: of the file.
        file: its device and inode.
    """

    path: str
    file: tuple[int, int]

    def unlink(self) -> None:
        """Remove the file; one that is gone is no error, and another one stays."""
        with contextlib.suppress(FileNotFoundError):
            if _file(self.path) == self.file:
                os.unlink(self.path)


def bind(
    sock: socket.socket, directory: str, container: Container, name: str, config: Socket
) -> BoundSocket:
    """Bind one socket of a container, with the mode and owner it asks for.

    Raises:
        LaunchError: a step failed; no file is left.
    """
    path = os.path.join(directory, f"{container}:{name}")
    try:
        _remove_stale(path)
        # The mode of the file that bind(2) makes, less the umask (unix_bind in af_unix.c): a
        # datagram socket can be reached before the mode of the manifest is set.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        bound = BoundSocket(path, _file(path))
        try:
            _configure(sock, path, config)
        except BaseException:
            bound.unlink()
            raise
    except OSError as failure:
        # Python refuses a path that does not fit into sockaddr_un without an errno.
        reason = "" if failure.errno else str(failure)
        raise LaunchError("make the socket", path, failure.errno or 0, reason) from failure
    return bound


def _file(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


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
