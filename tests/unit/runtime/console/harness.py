"""A console on real sockets, a runtime that records its calls, and a client that sees raw lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

from northstar.api import ContainerState, InspectAnswer, RefusedError, Status, Wanted, error
from northstar.api.feature import FEATURES
from northstar.api.log import LogLine, LogLost, LogStream
from northstar.api.request import Logs
from northstar.api.response import Failed, StatusOk, UpdateOk
from northstar.api.stream import TerminalSize
from northstar.model import FULL, Container, Exited, Permissions
from northstar.npk import key, keylist
from northstar.npk.keylist import KeyList, ListedKey, Use
from northstar.runtime.config import ConsoleOptions, GlobalConsole, TcpAddress, UnixAddress
from northstar.runtime.console import Console
from northstar.runtime.console.channel import Channel
from northstar.runtime.console.tokens import Tokens
from northstar.runtime.notifications import Notifications
from northstar.runtime.package_writer import IncomingWriter, PackageWriter
from tests.unit.runtime.console.local_process import LocalProcess

DEADLINE = 20.0
LINE_LIMIT = 2**24
A = Container.parse("a:1.0.0")
B = Container.parse("b:2.0.0")
NO_LIMIT = ConsoleOptions(max_requests_per_sec=10**9)
CONNECT = {"connect": {"version": "0.9.2", "subscribe_notifications": False}}
SUBSCRIBE = {"connect": {"version": "0.9.2", "subscribe_notifications": True}}
ACK = {"connect_ack": None}
KEYS = keylist.create(7, [ListedKey(key.public_key(bytes(32)), Use.INSTALL)])
"""The key list of the repository `fs`."""
EXTENDED = {"connect": {**CONNECT["connect"], "extended": True}}
EXTENDED_SUBSCRIBE = {"connect": {**SUBSCRIBE["connect"], "extended": True}}
EXTENDED_ACK = {"connect_ack": {"features": list(FEATURES)}}
STATUS = Status(Wanted.UP, ContainerState.BACKOFF, 2, "exit 1", 6, 5, 9, None, Exited(1))
STATUS_WIRE = {
    "wanted": "up",
    "state": "backoff",
    "since": 2,
    "reason": "exit 1",
    "run": 6,
    "restarts": 5,
    "next": 9,
    "text": None,
    "last": {"exit": {"code": 1}},
}


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, with a deadline."""

    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await test

    asyncio.run(limited())


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the deadline is that of `run`."""
    while not condition():  # noqa: ASYNC110 - conditions of any kind
        await asyncio.sleep(0.001)


class Package(PackageWriter):
    """A writer that keeps a package in memory."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.data = b""
        self.committed = False
        self.aborted = 0

    async def write(self, chunk: bytes) -> None:
        await self._runtime.step("write")
        self.data += chunk

    async def commit(self) -> Container:
        await self._runtime.step("commit")
        self.committed = True
        return A

    async def abort(self) -> None:
        self.aborted += 1


class UpdatePackage(IncomingWriter[UpdateOk]):
    """A writer whose commit is an update of A to B."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.data = b""
        self.aborted = 0

    async def write(self, chunk: bytes) -> None:
        await self._runtime.step("write")
        self.data += chunk

    async def commit(self) -> UpdateOk:
        await self._runtime.step("commit")
        return UpdateOk(B, A)

    async def abort(self) -> None:
        self.aborted += 1


class Runtime:
    """Operations in memory.

    Attributes:
        calls: the operations that were called, in order.
        failures: exceptions by operation.
        gates: operations that wait for an event first.
        busy: how many operations wait for their event now.
        processes: the processes that were executed.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.containers: tuple[Container, ...] = (A, B)
        self.failures: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.busy = 0
        self.packages: list[Package] = []
        self.processes: list[LocalProcess] = []
        self.updates: list[UpdatePackage] = []
        self.on_shutdown: Callable[[], object] = lambda: None

    async def step(self, operation: str) -> None:
        if operation in self.gates:
            self.busy += 1
            await self.gates[operation].wait()
            self.busy -= 1
        if operation in self.failures:
            raise self.failures[operation]

    async def _operate(self, operation: str, container: Container, *details: Any) -> None:
        self.calls.append((operation, str(container), *details))
        await self.step(operation)
        if container not in (A, B):
            raise RefusedError(error.InvalidContainer(container))

    def list(self) -> tuple[Container, ...]:
        self.calls.append("list")
        if "list" in self.failures:
            raise self.failures["list"]
        return self.containers

    def repositories(self) -> Sequence[str]:
        return ["mem", "disk"]

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        self.on_shutdown()

    def inspect(self, container: Container, *, service: bool) -> bytes:
        self.calls.append(("inspect", str(container)))
        if "inspect" in self.failures:
            raise self.failures["inspect"]
        if container not in (A, B):
            raise RefusedError(error.InvalidContainer(container))
        manifest = {"name": str(container.name), **({"service": {}} if service else {})}
        return InspectAnswer(container, manifest, "mem").line(mounted=True, process=None)

    def status(self, containers: Sequence[Container]) -> Sequence[StatusOk | Failed]:
        self.calls.append(("status", *map(str, containers)))
        return [
            StatusOk(container, STATUS)
            if container in (A, B)
            else Failed(container, error.InvalidContainer(container))
            for container in containers
        ]

    async def stop(
        self,
        container: Container,
        timeout: int | None,  # noqa: ASYNC109 - a part of the request
    ) -> bool:
        await self._operate("stop", container, timeout)
        return container == B

    async def restart(self, container: Container) -> None:
        await self._operate("restart", container)

    async def keys(self, repository: str, new: str | None) -> KeyList:
        self.calls.append(("keys", repository, new))
        if repository != "fs":
            raise RefusedError(error.InvalidRepository(repository))
        return KEYS

    async def mount(self, container: Container) -> None:
        await self._operate("mount", container)

    async def umount(self, container: Container) -> None:
        await self._operate("umount", container)

    async def start(
        self,
        container: Container,
        init: str | None,
        arguments: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        await self._operate("start", container, init, tuple(arguments), dict(environment))

    async def kill(self, container: Container, signal: int) -> None:
        await self._operate("kill", container, signal)

    async def uninstall(self, container: Container, wipe: bool) -> None:
        await self._operate("uninstall", container, wipe)

    async def execute(
        self,
        container: Container,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bool,
        terminal: TerminalSize | None,
        client: str,
    ) -> LocalProcess:
        assert client
        await self._operate("exec", container, tuple(command))
        process = LocalProcess(command, environment, stdin=stdin, terminal=terminal)
        self.processes.append(process)
        return process

    async def logs(self, request: Logs, channel: Channel) -> None:
        await self._operate("logs", request.container, request)
        for number in range(request.lines or 0):
            text = "x" * 1000
            channel.send(LogLine(request.container, 1, 5, LogStream.STDERR, text, str(number)))
            await channel.writable()
        channel.send(LogLost(request.container, 1, 7))
        if request.follow:
            ended = asyncio.Event()
            channel.on_end(ended.set)
            await ended.wait()

    async def begin_install(self, repository: str, size: int) -> Package:
        self.calls.append(("install", repository, size))
        await self.step("begin_install")
        if repository != "mem":
            raise RefusedError(error.InvalidRepository(repository))
        package = Package(self)
        self.packages.append(package)
        return package

    async def begin_update(self, repository: str, size: int) -> UpdatePackage:
        self.calls.append(("update", repository, size))
        await self.step("begin_update")
        if repository != "mem":
            raise RefusedError(error.InvalidRepository(repository))
        update = UpdatePackage(self)
        self.updates.append(update)
        return update


class Client:
    """The peer of a connection: it sends and receives lines and raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *messages: Any) -> None:
        """Send messages, or bytes as they are."""
        for message in messages:
            raw = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            self.writer.write(raw)

    async def receive(self) -> Any:
        line = await self.reader.readline()
        if not line:
            raise EOFError
        assert line.endswith(b"\n")
        return json.loads(line)

    async def ask(self, request: Any) -> Any:
        self.send({"request": request})
        return (await self.receive())["response"]

    async def connect(self, message: Any = None) -> Client:
        message = CONNECT if message is None else message
        self.send(message)
        extended = message["connect"].get("extended")
        assert await self.receive() == (EXTENDED_ACK if extended else ACK)
        return self

    def stop_reading(self) -> None:
        self._transport().pause_reading()

    def read_on(self) -> None:
        self._transport().resume_reading()

    def _transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.writer.transport)

    async def ended(self) -> bytes:
        """Wait for the end of the stream, and return the data before it."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Bench:
    """A console, its runtime and its clients."""

    def __init__(
        self, permissions: Permissions, options: ConsoleOptions, connect_timeout: float
    ) -> None:
        self.runtime = Runtime()
        self.hub = Notifications(4)
        self.clock: Callable[[], float] = lambda: 1000.0
        self.console = Console(
            self.runtime,
            self.hub,
            Tokens(lambda: self.clock()),
            connect_timeout=connect_timeout,
        )
        self.options = options
        self.permissions = permissions
        self.address: TcpAddress | UnixAddress
        self.clients: list[Client] = []

    async def client(self) -> Client:
        """Return a client that has sent nothing; on TCP the kernel buffers little for it."""
        if isinstance(self.address, UnixAddress):
            reader, writer = await asyncio.open_unix_connection(self.address.path, limit=LINE_LIMIT)
        else:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (self.address.host, self.address.port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=LINE_LIMIT)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    async def connected(self, message: Any = None) -> Client:
        return await (await self.client()).connect(message)

    async def container(
        self, permissions: Permissions, options: ConsoleOptions, container: Container = A
    ) -> Client:
        """Return the client of a container."""
        local, remote = socket.socketpair()
        await self.console.adopt(local, container, permissions, options)
        reader, writer = await asyncio.open_unix_connection(sock=remote)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]


@contextlib.asynccontextmanager
async def serving(
    permissions: Permissions = FULL,
    options: ConsoleOptions = NO_LIMIT,
    *,
    tcp: bool = False,
    started: bool = True,
    connect_timeout: float = DEADLINE,
) -> AsyncIterator[Bench]:
    """Serve a console; at the end no connection, task or memory may be left."""
    descriptors = set(os.listdir("/proc/self/fd"))
    bench = Bench(permissions, options, connect_timeout)
    with tempfile.TemporaryDirectory() as directory:
        bind = TcpAddress("127.0.0.1", 0) if tcp else UnixAddress(f"{directory}/socket")
        bench.address = await bench.console.listen(GlobalConsole(bind, permissions, options))
        if isinstance(bind, TcpAddress):
            # Accepted sockets inherit it: if a client does not read, the console's buffer fills.
            assert bench.console._acceptor is not None
            listener = bench.console._acceptor._listener
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        if started:
            bench.console.run()
        try:
            yield bench
        finally:
            for gate in bench.runtime.gates.values():
                gate.set()
            await bench.console.close()
            for client in bench.clients:
                await client.close()
    await until(lambda: set(os.listdir("/proc/self/fd")) <= descriptors)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
