"""The notify socket of a container: it receives the messages of its processes, sd_notify(3).

The socket is a file, in a directory that only this container has in its mount namespace. So each
message is from this container, and no sender has to be identified: a process that has sent a
message may have ended when the message is read. Abstract names would not do: they belong to the
network namespace, which containers with `network: host` share.

The directory of all notify sockets exists while a container has one. Only root has access to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from typing import Final

from northstar.launch.plan import NOTIFY_SOCKET
from northstar.linux import sysctl
from northstar.linux.descriptor import Closing
from northstar.model import Container, LaunchError
from northstar.model.notify import MESSAGE_SIZE_MAX, NOTHING, NotifyMessage, parse
from northstar.runtime.directories import notify_directory
from northstar.runtime.ratelimit import SlidingWindow, TokenBucket

log = logging.getLogger("northstar.runtime")

MESSAGES_PER_SECOND: Final = 100
"""Most messages that are read from one container. Further ones wait in its queue, and when that is
full, the sender waits too, or gets EAGAIN."""

_LABEL: Final = "security.selinux"


class NotifySocket(Closing):
    """A bound notify socket, and its directory.

    It is read in the event loop from `begin` to `close`. Messages that are sent earlier are queued.
    The socket is received from without room for descriptors, so the kernel closes descriptors that
    are sent along, recvmsg(2).

    Attributes:
        directory: path of the directory, to be mounted in the container.
    """

    def __init__(
        self, sock: socket.socket, path: str, container: Container, queue_max: int
    ) -> None:
        """Own the socket and its directory; `bind` creates both.

        Args:
            sock: bound, and not blocking.
            path: of the directory.
            container: the container.
            queue_max: most messages that its queue holds.
        """
        self.directory = path
        self._socket = sock
        self._container = container
        self._queue_max = queue_max
        self._rate = SlidingWindow(MESSAGES_PER_SECOND)
        self._drain_rate = TokenBucket(MESSAGES_PER_SECOND, queue_max)
        self._warned = False
        self._received: Callable[[NotifyMessage], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pause: asyncio.TimerHandle | None = None

    def begin(self, received: Callable[[NotifyMessage], None]) -> None:
        """Read the socket from the next iteration of the event loop on.

        Args:
            received: called with each message that has a known field.

        Raises:
            OSError: the event loop cannot watch the socket.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._read)
        self._received = received
        self._loop = loop

    def _read(self) -> None:
        # One message per call: the event loop calls again while there are more, and other work
        # proceeds in between.
        assert self._loop is not None
        assert self._received is not None
        delay = self._rate.delay(self._loop.time())
        if delay:
            self._loop.remove_reader(self._socket.fileno())
            self._pause = self._loop.call_later(delay, self._resume)
            return
        message = self._receive()
        if message is not None and message != NOTHING:
            self._received(message)

    def _resume(self) -> None:
        assert self._loop is not None
        self._pause = None
        try:
            self._loop.add_reader(self._socket.fileno(), self._read)
        except OSError as failure:
            # epoll_ctl(2): ENOMEM, or ENOSPC (the user's limit of watches).
            log.warning("%s: cannot watch its notify socket: %s", self._container, failure.strerror)
            self._pause = self._loop.call_later(1.0, self._resume)

    def _receive(self) -> NotifyMessage | None:
        """Return the next message, `NOTHING` for an invalid one, or None if the queue is empty."""
        try:
            data, _, flags, _ = self._socket.recvmsg(MESSAGE_SIZE_MAX)
        except BlockingIOError:
            return None
        if not flags & socket.MSG_TRUNC:
            message = parse(data)
            if message != NOTHING:
                log.debug("%s notifies: %s", self._container, message)
            return message
        if not self._warned:
            self._warned = True
            log.warning(
                "%s: ignoring notify messages of more than %d bytes",
                self._container,
                MESSAGE_SIZE_MAX,
            )
        return NOTHING

    def drain(self) -> list[NotifyMessage]:
        """Return all queued messages with a known field, in order.

        For decisions that must not miss a message that was sent before them. The messages that
        `begin` reads do not count here. But a sender that floods the queue could cause any number
        of decisions, by a short watchdog: once it has used up `MESSAGES_PER_SECOND` by them, it is
        not read, and the result is empty. At most one queue of messages is read, so a sender that
        refills the queue meanwhile does not prolong this.
        """
        messages: list[NotifyMessage] = []
        now = time.monotonic()
        if self._socket.fileno() < 0 or self._drain_rate.left(now) <= 0:
            return messages
        count = 0
        while count < self._queue_max and (message := self._receive()) is not None:
            count += 1
            if message != NOTHING:
                messages.append(message)
        self._drain_rate.spend(count, now)
        return messages

    def close(self) -> None:
        """Stop reading, and remove the socket and its directory; idempotent.

        Raises:
            OSError: they cannot be removed. They may be missing.
        """
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        elif self._loop is not None:
            self._loop.remove_reader(descriptor)
        self._socket.close()
        remove(self.directory)


def bind(run_dir: str, container: Container, label: str | None = None) -> NotifySocket:
    """Create the notify socket of a container, with its directory.

    Args:
        run_dir: the runtime's run directory, which exists.
        container: the container.
        label: SELinux context of the socket and its directory; None keeps the default.

    Raises:
        LaunchError: a step failed; nothing is left behind.
    """
    path = notify_directory(run_dir, container)
    try:
        _make_top(os.path.dirname(path))
        try:
            # A directory that a failed clean-up left may be visible to a process of that run.
            _remove(path)
            os.mkdir(path)
            # The kernel compares before it queues, so the queue holds one more.
            most = sysctl.max_dgram_qlen() + 1
            return NotifySocket(_bind(path, label), path, container, most)
        except BaseException:
            with contextlib.suppress(OSError):
                remove(path)
            raise
    except OSError as failure:
        where = failure.filename or path
        raise LaunchError("make the notify socket", where, failure.errno or 0) from failure


def _make_top(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not is_ours(path):
            raise LaunchError(
                "make the notify socket",
                path,
                reason="it is not a directory of the runtime, with its user and the mode 0700",
                hint="remove or rename it",
            ) from None
    else:
        os.chmod(path, 0o700)  # independent of the umask


def is_ours(path: str) -> bool:
    """Return whether `path` is a directory with the owner and mode of one that `bind` creates."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    mode = stat.S_IFDIR | 0o700
    return status.st_uid == os.geteuid() and status.st_mode & ~stat.S_ISGID == mode


def _bind(path: str, label: str | None) -> socket.socket:
    """Bind a socket in the empty directory `path`."""
    file = os.path.join(path, NOTIFY_SOCKET)
    # Independent of the umask. Containers have any user; other processes of the host cannot reach
    # the directory, since they cannot search the one above it.
    os.chmod(path, 0o755)  # noqa: S103
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        # sockaddr_un has room for 108 bytes of a path only, unix(7).
        opened = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            sock.bind(f"/proc/self/fd/{opened}/{NOTIFY_SOCKET}")
        finally:
            os.close(opened)
        os.chmod(file, 0o666)  # noqa: S103
        if label is not None:
            for labelled in (path, file):
                os.setxattr(labelled, _LABEL, label.encode() + b"\0")
    except BaseException:
        sock.close()
        raise
    return sock


def remove(path: str) -> None:
    """Remove the directory of a notify socket, and that of all notify sockets with the last one.

    A missing directory is no error.

    Raises:
        OSError: it cannot be removed, or contains other files.
    """
    try:
        _remove(path)
    finally:
        # While it contains other directories, this fails.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, NOTIFY_SOCKET))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)
