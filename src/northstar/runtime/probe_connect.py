"""Probes that connect to a socket of a container: `tcp:8080`, `unix:/run/app.sock`.

A TCP socket belongs to the network namespace of the thread that creates it. One thread does nothing
but enter the container's namespace, create a socket, and go back: else it would keep the namespace
of an ended container. It never waits; connecting is done in the event loop.

A Unix socket is looked up with the container's root as the root, so neither links nor `..` lead
outside, and links of /proc are refused. That is done in threads too, since a file system of the
container may not answer. The result is a descriptor of the file, which is connected by its link in
/proc: nothing that the container does afterwards changes the target.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final, TypeVar

from northstar.linux import mount, openat2
from northstar.model import sentence
from northstar.model.loop_deadline import timeout
from northstar.runtime.probe_results import EndedError, FailedError, LackingError, of_call
from northstar.runtime.running import RunningContainer
from northstar.runtime.threads import NUMBER, Pool

T = TypeVar("T")

_RETRY: Final = 0.05
"""Seconds until a lookup or a connection that the kernel could not decide is tried again."""

_LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Connector:
    """Connects to sockets of containers. Its threads are started when they are first needed."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}

    async def connect(self, running: RunningContainer, address: str, seconds: float) -> None:
        """Connect to an address `tcp:PORT` or `unix:PATH` of a container, and disconnect.

        Args:
            running: the container.
            address: the address.
            seconds: longest time.

        Raises:
            FailedError: nothing accepts connections there, or not in time.
            LackingError: the runtime lacks a descriptor, memory or a thread.
            EndedError: the container has ended.
        """
        scheme, _, place = address.partition(":")
        progress = _Progress()
        try:
            async with timeout(seconds):
                if scheme == "tcp":
                    await self._connect_tcp(running, address, int(place))
                else:
                    await self._connect_unix(running, address, place, progress)
        except TimeoutError:
            if progress.waits_for_thread:
                raise LackingError("lookups in other containers occupy all threads") from None
            raise FailedError(f"{address}: timeout") from None

    def close(self, seconds: float) -> list[Pool]:
        """End all threads; return the pools with threads that block in the kernel.

        Args:
            seconds: longest time to wait in total.
        """
        pools = tuple(self._pools.values())
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + seconds
        return [pool for pool in pools if not pool.join(deadline)]

    # TCP.

    async def _connect_tcp(self, running: RunningContainer, address: str, port: int) -> None:
        failures: list[FailedError] = []
        for family, host in _LOOPBACK:
            try:
                with await self._tcp_socket(running, family) as sock:
                    await _connect(sock, (host, port), address)
            except FailedError as failure:
                failures.append(failure)
            else:
                return
        raise failures[0]

    async def _tcp_socket(
        self, running: RunningContainer, family: socket.AddressFamily
    ) -> socket.socket:
        """Return a socket in the container's network namespace, not connected and not blocking."""
        pool = self._pool("probes of TCP ports", 1)
        namespace = _open_of(running, "ns/net", os.O_RDONLY)
        try:
            own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as failure:
            os.close(namespace)
            raise LackingError(f"/proc/self/ns/net: {failure.strerror}") from failure
        call = pool.submit(_socket_in, namespace, own, family)
        try:
            return await _result(call, (namespace, own), socket.socket.close)
        except OSError as failure:
            if failure.errno == errno.EAFNOSUPPORT:  # a kernel without IPv6
                raise FailedError(failure.strerror or "") from None
            raise LackingError(f"no socket in its network namespace: {failure.strerror}") from None

    # Unix sockets.

    async def _connect_unix(
        self, running: RunningContainer, address: str, path: str, progress: _Progress
    ) -> None:
        while True:
            try:
                file = await self._look_up(running, path, progress)
                try:
                    _connect_file(file)
                finally:
                    os.close(file)
            except BlockingIOError:
                # The queue of the socket is full, or something was renamed or mounted during the
                # lookup of `..`. poll(2) waits for neither.
                await asyncio.sleep(_RETRY)
            except OSError as failure:
                raise of_call(failure, address) from None
            else:
                return

    async def _look_up(self, running: RunningContainer, path: str, progress: _Progress) -> int:
        """Return a descriptor (O_PATH) of a socket in the container's root; the caller owns it.

        Raises:
            OSError: it is not found, or is no socket.
        """
        pool = self._pool("probes of Unix sockets", NUMBER)
        root = _open_of(running, "root", os.O_PATH | os.O_DIRECTORY)
        progress.lookup = pool.submit(_open_socket, root, path)
        return await _result(progress.lookup, (root,), os.close)

    def _pool(self, name: str, number: int) -> Pool:
        if name not in self._pools:
            try:
                self._pools[name] = Pool(name, number)
            except RuntimeError as failure:
                raise LackingError(f"no thread: {sentence(failure)}") from failure
        return self._pools[name]


class _Progress:
    """How far a probe has come: whether it has waited for a thread only."""

    def __init__(self) -> None:
        self.lookup: Future[int] | None = None

    @property
    def waits_for_thread(self) -> bool:
        lookup = self.lookup
        return lookup is not None and (
            lookup.cancelled() or not (lookup.running() or lookup.done())
        )


def _open_of(running: RunningContainer, name: str, flags: int) -> int:
    """Open a file of /proc/PID of a container's init; the caller owns the descriptor.

    Raises:
        EndedError: init has ended.
        LackingError: it cannot be opened.
    """
    # Init is reaped in the event loop's thread, so until then its pid is not reused.
    if running.exited.done():
        raise EndedError
    try:
        return os.open(f"/proc/{running.pid}/{name}", flags | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise EndedError from None
    except OSError as failure:
        raise LackingError(f"/proc/{running.pid}/{name}: {failure.strerror}") from failure


async def _result(call: Future[T], passed: Iterable[int], discard: Callable[[T], object]) -> T:
    """Return the result of a call in a thread.

    Args:
        call: the call.
        passed: the descriptors that it uses: closed when it has ended, or will not begin.
        discard: releases the result if this task is cancelled meanwhile.
    """

    def close(_: Future[T]) -> None:
        for descriptor in passed:
            os.close(descriptor)

    call.add_done_callback(close)
    waiting = asyncio.wrap_future(call)

    def ended(waiting: asyncio.Future[T]) -> None:
        if not waiting.cancelled() and waiting.exception() is None:
            discard(waiting.result())

    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        call.cancel()
        waiting.add_done_callback(ended)
        raise


def _socket_in(namespace: int, own: int, family: socket.AddressFamily) -> socket.socket:
    """Return a TCP socket that belongs to a network namespace, not blocking.

    Args:
        namespace: a descriptor of it.
        own: one of the namespace in which this thread is, and stays.
        family: of the addresses.
    """
    mount.setns(namespace, mount.CLONE_NEWNET)
    try:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    finally:
        mount.setns(own, mount.CLONE_NEWNET)


async def _connect(sock: socket.socket, target: tuple[str, int], address: str) -> None:
    """Connect a TCP socket.

    Raises:
        FailedError, LackingError: it cannot be connected.
    """
    number = sock.connect_ex(target)
    if number == errno.EINPROGRESS:
        await _writable(sock)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number == 0 and sock.getsockname() == sock.getpeername():
        # Nobody listens, and the kernel has chosen this port as the local one: simultaneous open,
        # RFC 9293, section 3.5.
        number = errno.ECONNREFUSED
    if number:
        raise of_call(OSError(number, os.strerror(number)), address)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not writable.done():
            writable.set_result(None)

    try:
        loop.add_writer(sock.fileno(), ready)
    except OSError as failure:
        raise LackingError(f"cannot watch a socket: {failure.strerror}") from failure
    try:
        await writable
    finally:
        loop.remove_writer(sock.fileno())


def _open_socket(root: int, path: str) -> int:
    """Return a descriptor (O_PATH) of a socket below a root; the caller owns it.

    Raises:
        OSError: it is not found, or is no socket.
    """
    resolve = openat2.RESOLVE_IN_ROOT | openat2.RESOLVE_NO_MAGICLINKS
    file = openat2.openat2(root, path, os.O_PATH, resolve)
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)
    except BaseException:
        os.close(file)
        raise
    return file


def _connect_file(file: int) -> None:
    """Connect to a Unix socket, which is open with O_PATH, and disconnect.

    Raises:
        OSError: BlockingIOError if its queue is full, or another one.
    """
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as sock:
            number = sock.connect_ex(f"/proc/self/fd/{file}")
        if number != errno.EPROTOTYPE:
            break
    if number:
        raise OSError(number, os.strerror(number))
