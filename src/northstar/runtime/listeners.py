"""Binds the Unix sockets that a manifest declares. The container creates them and listens.

Other processes see which process called socket(2) and listen(2): a socket belongs to the network
namespace of its creator, and clients see pidfd and user of the listener as those of their peer. So
the container makes both calls: launch/plan.py.
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
        path: path of the file.
        file: its device and inode.
    """

    path: str
    file: tuple[int, int]

    def unlink(self) -> None:
        """Remove the file. A missing file is no error, and a different file is kept."""
        with contextlib.suppress(FileNotFoundError):
            if _file(self.path) == self.file:
                os.unlink(self.path)


def bind(
    sock: socket.socket, directory: str, container: Container, name: str, config: Socket
) -> BoundSocket:
    """Bind one socket of a container, with the mode and owner of `config`.

    Raises:
        LaunchError: a step failed; no file is left behind.
    """
    path = os.path.join(directory, f"{container}:{name}")
    try:
        _remove_stale(path)
        # bind(2) creates the file with this mode, less the umask (unix_bind in af_unix.c). A
        # datagram socket is reachable before `_configure` sets the mode of the manifest.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        bound = BoundSocket(path, _file(path))
        try:
            _configure(sock, path, config)
        except BaseException:
            bound.unlink()
            raise
    except OSError as failure:
        # For a path that does not fit into sockaddr_un Python raises an OSError without errno.
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
    # Owner before mode: chown(2) may clear bits of the mode.
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
