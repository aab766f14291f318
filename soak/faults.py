"""The faults: of clients, of payloads, of the machine.

Each fault is a coroutine that a worker runs as one of its steps. A long fault continues in the
background; the end of the round waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

from northstar import api
from soak.checker import Checker, Violation
from soak.model import Operation
from tests.system import host

if TYPE_CHECKING:
    from soak.soak import Soak
    from soak.worker import Worker

Fault = Callable[["Soak", "Worker"], Awaitable[None]]

LINE: Final = 2**20
"""The runtime's limit of a line, in bytes."""

DEADLINE: Final = 60.0

FAULTS: Final[list[Fault]] = []


def fault(function: Fault) -> Fault:
    """Register a fault under its function's name."""
    FAULTS.append(function)
    return function


def any_of(chance: random.Random) -> Fault:
    """Choose a fault, which counts itself when it runs."""
    chosen = chance.choice(FAULTS)

    async def counted(soak: Soak, worker: Worker) -> None:
        name = chosen.__name__.replace("_", " ")
        soak.note(f"client {worker.number} fault: {name}")
        soak.faults[name] += 1
        await chosen(soak, worker)

    return counted


class LostError(Exception):
    """The runtime was stopped before it answered."""


class Raw:
    """A connection without the checks of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *messages: object) -> None:
        """Send messages, one per line."""
        self.writer.write(b"".join(json.dumps(m).encode() + b"\n" for m in messages))

    async def until_closed(self) -> bytes:
        """Return the bytes until the runtime closes the connection."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def raw(soak: Soak, *, subscribe: bool = False) -> AsyncIterator[Raw]:
    """Connect, and exchange the connect messages.

    Raises:
        LostError: the runtime was stopped.
        Violation: it closed the connection, and was not stopped.
    """
    soak.waiting += 1
    try:
        async with asyncio.timeout(DEADLINE):
            path = soak.runtime.url.removeprefix("unix://")
            reader, writer = await asyncio.open_unix_connection(path, limit=2**24)
            try:
                connection = Raw(reader, writer)
                connect = {"version": "0.9.2", "subscribe_notifications": subscribe}
                connection.send({"connect": connect})
                await reader.readuntil(b"\n")
                yield connection
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, asyncio.IncompleteReadError) as failure:
        # A TimeoutError is an OSError.
        if soak.up.is_set():
            raise Violation(f"a raw connection failed: {failure!r}") from failure
        raise LostError from None
    finally:
        soak.waiting -= 1


def request(group: Checker, operation: Operation, size: int = 0) -> object:
    """Return the message of an operation."""
    about = {"container": group.cluster.containers[operation.container]}
    program = operation.program
    bodies: dict[str, object] = {
        "install": {"repository": operation.repository, "size": size},
        "uninstall": {**about, "wipe": operation.wipe},
        "mount": {"containers": [about["container"]]},
        "umount": {"containers": [about["container"]]},
        "kill": {**about, "signal": operation.signal},
    }
    if program is not None:
        command = {"arguments": program.arguments, "environment": dict(program.environment)}
        bodies["start"] = {**about, "init": program.init, **command}
    return {"request": {operation.kind: bodies[operation.kind]}}


# Clients that disconnect, stall, or send invalid messages


@fault
async def disconnect_before_the_answer(soak: Soak, worker: Worker) -> None:
    """The request may be read or not; a request that has begun must be completed."""
    chance = worker.chance
    group = soak.any_group(chance)
    kind = chance.choice(["install", "start", "kill", "uninstall", "mount", "umount"])
    operation = worker.operation(kind, group, abandoned=True)
    late = chance.random() / 100
    if soak.abandoned(group) >= 1:
        return
    async with raw(soak) as connection:
        soak.sent(worker.number, group, operation)
        package = soak.package(group, operation) if kind == "install" else b""
        connection.send(request(group, operation, len(package)))
        connection.writer.write(package)
        await asyncio.sleep(late)


@fault
async def disconnect_within_a_package(soak: Soak, worker: Worker) -> None:
    """No part of the package may stay."""
    group = soak.any_group(worker.chance)
    operation = worker.operation("install", group)
    package = soak.package(group, operation)
    part = worker.chance.randrange(len(package))
    async with raw(soak) as connection:
        connection.send(request(group, operation, len(package)))
        connection.writer.write(package[:part])


@fault
async def stall_within_a_package(soak: Soak, worker: Worker) -> None:
    """The runtime closes the connection, and no part of the package stays."""
    group = soak.any_group(worker.chance)
    operation = worker.operation("install", group)
    package = soak.package(group, operation)
    part = worker.chance.randrange(len(package))
    if soak.stalled:
        return  # the end of the round waits for it
    soak.stalled = True

    async def stall() -> None:
        async with raw(soak) as connection:
            connection.send(request(group, operation, len(package)))
            connection.writer.write(package[:part])
            await connection.until_closed()

    soak.background(stall())


@fault
async def slow_package(soak: Soak, worker: Worker) -> None:
    """The package arrives in pieces; it blocks no other request, and is checked as any other."""
    group = soak.any_group(worker.chance)
    operation = worker.operation("install", group)
    package = soak.package(group, operation)
    pause = worker.chance.random() / 20

    async def trickle() -> None:
        async with raw(soak) as connection:
            soak.sent(worker.number, group, operation)
            connection.send(request(group, operation, len(package)))
            step = len(package) // 10 + 1
            for at in range(0, len(package), step):
                connection.writer.write(package[at : at + step])
                await asyncio.sleep(pause)
            answer = api.decode(await connection.reader.readuntil(b"\n"))
            assert isinstance(answer, api.response.Install)
            soak.installed(group, operation, answer)

    soak.background(trickle())


@fault
async def package_longer_than_announced(soak: Soak, worker: Worker) -> None:
    """The excess bytes are no messages: the runtime answers, then closes the connection."""
    group = soak.any_group(worker.chance)
    operation = worker.operation("install", group)
    operation.container = -1
    package = soak.package(group, operation)
    async with raw(soak) as connection:
        soak.sent(worker.number, group, operation)
        connection.send(request(group, operation, len(package)))
        connection.writer.write(package + b"\n\xff\xfe nonsense\n")
        answer, _, rest = (await connection.until_closed()).partition(b"\n")
        if soak.up.is_set():
            message = api.decode(answer)
            assert isinstance(message, api.response.Install)
            assert not rest
            soak.installed(group, operation, message)


@fault
async def garbage(soak: Soak, worker: Worker) -> None:
    """The runtime closes this connection, and no other one."""
    chance = worker.chance
    junk = [
        chance.randbytes(100) + b"\n",
        b'{"request":"nothing"}\n',
        b'{"request":{"start":{"container":"x"}}}\n',
        b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n',
        b"[" * 1000 + b"\n",
        b"\n",
        bytes(LINE + 1),
        b"x" * (LINE - 1) + b"\n",
    ]
    async with raw(soak) as connection:
        connection.writer.write(chance.choice(junk))
        await connection.until_closed()


@fault
async def half_a_line(soak: Soak, worker: Worker) -> None:
    """The client stalls for a while within a line."""
    pause = worker.chance.random()

    async def hold() -> None:
        async with raw(soak) as connection:
            connection.writer.write(b'{"request":{"uninstall":{"container":"app0:1.0')
            await asyncio.sleep(pause)

    soak.background(hold())


@fault
async def many_connections(soak: Soak, worker: Worker) -> None:
    """Fifty clients connect, and half of them send no request."""
    del worker

    async def one(number: int) -> None:
        async with raw(soak) as connection:
            if number % 2:
                connection.send({"request": "list"})
                await connection.reader.readuntil(b"\n")

    async def connect_all() -> None:
        await asyncio.gather(*map(one, range(50)))

    soak.background(connect_all())


@fault
async def too_many_requests(soak: Soak, worker: Worker) -> None:
    """More requests than the rate limit allows: they wait, and all are answered."""
    count = worker.chance.randint(1100, 1500)

    async def burst() -> None:
        async with raw(soak) as connection:
            begun = time.monotonic()
            connection.send(*[{"request": "ident"}] * count)
            for _ in range(count):
                await connection.reader.readuntil(b"\n")
            if time.monotonic() - begun < 1.0:
                raise Violation(f"{count} requests were answered within a second")

    soak.background(burst())


@fault
async def unread_answers(soak: Soak, worker: Worker) -> None:
    """The client reads no answers for a while; then it receives all."""
    count = worker.chance.randint(300, 900)

    async def lazy() -> None:
        async with raw(soak) as connection:
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            connection.send(*[{"request": "list"}] * count)
            await asyncio.sleep(0.5)
            connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(count):
                answer = api.decode(await connection.reader.readuntil(b"\n"))
                assert isinstance(answer, api.response.List)

    soak.background(lazy())


@fault
async def unread_notifications(soak: Soak, worker: Worker) -> None:
    """The client reads none for a while; then it receives the same as others, without a gap."""
    pause = worker.chance.random() * 2

    async def lazy() -> None:
        async with raw(soak, subscribe=True) as connection:
            # A subscriber receives all that is published from now on, perhaps some before.
            first = len(soak.stream)
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(pause)
            connection.send({"request": "ident"})
            connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
            got: list[api.Notification] = []
            while True:
                message = api.decode(await connection.reader.readuntil(b"\n"))
                if isinstance(message, api.response.Ident):
                    break
                assert isinstance(message, api.Notification)
                got.append(message)
            await soak.expect_in_stream(first, got)

    soak.background(lazy())


@fault
async def a_stopped_client(soak: Soak, worker: Worker) -> None:
    """The pinger, a subscriber, is stopped, and continued later."""
    pause = worker.chance.random() * 2
    pid = soak.pinger.pid

    async def freeze() -> None:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(pause)
        os.kill(pid, signal.SIGCONT)

    soak.background(freeze())


# Faults of payloads and of the machine


@fault
async def killed_from_the_host(soak: Soak, worker: Worker) -> None:
    """Kill init or its first child, in the first running container."""
    chance = worker.chance
    every = [(g, n) for g in soak.groups for n in range(len(g.cluster.containers))]
    chance.shuffle(every)
    init = chance.random() < 0.5
    for group, number in every:
        pid = await _pid(worker, group.cluster.containers[number])
        if not pid:
            continue
        with contextlib.suppress(OSError, IndexError):
            target = pid if init else _child(pid)
            handle = os.pidfd_open(target)
            try:
                # If init still has this pid, the pidfd refers to it or its child.
                still = await _pid(worker, group.cluster.containers[number])
                if still == pid and (init or _child(pid) == target):
                    strike = Operation("strike", number, signal=9)
                    soak.sent(worker.number, group, strike)
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                    soak.answered(group, strike, ("ok",))
            finally:
                os.close(handle)
        return


async def _pid(worker: Worker, container: str) -> int:
    client = await worker.connect()
    try:
        process = (await worker.unchecked(lambda: client.inspect(container))).process
    except api.RefusedError:
        return 0
    return process.pid if process is not None else 0


def _child(pid: int) -> int:
    return host.descendants(pid)[0]


@fault
async def no_descriptors(soak: Soak, worker: Worker) -> None:
    """The runtime may open only a few more descriptors while all clients continue."""
    free = worker.chance.randrange(12)
    steps = worker.chance.randint(1, 6)
    if soak.lenient or not soak.up.is_set():
        return
    pid = soak.pid
    used = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
    limit = max(n for n in range(4096) if n - sum(u < n for u in used) == free)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    soak.allow_failures(True)
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        for _ in range(steps):
            await worker.request()
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        soak.allow_failures(False)


@fault
async def junk_in_the_repository(soak: Soak, worker: Worker) -> None:
    """A file that is no package, perhaps with the name of a package."""
    chance = worker.chance
    kind = chance.choice(["file", "name", "directory", "fifo", "link"])
    path = soak.store / f"junk-{chance.randrange(10**9)}"
    group = soak.any_group(chance)
    if kind == "name":
        path = soak.store / f"{chance.choice(group.cluster.containers)}.npk"
    if path in soak.junk or not soak.up.is_set():
        return
    with contextlib.suppress(FileExistsError):
        if kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to("/nowhere")
        else:
            path.open("x").close()
        soak.junk.add(path)


@fault
async def existing_cgroups(soak: Soak, worker: Worker) -> None:
    """Empty cgroups with the names of containers: a container that needs one uses it."""
    group = soak.any_group(worker.chance)
    name = group.cluster.name(worker.chance.randrange(len(group.cluster.containers)))
    if not soak.up.is_set():
        return
    for root in host.cgroup_roots():
        top = root / soak.runtime.cgroup
        with contextlib.suppress(FileExistsError):
            if top.is_dir():
                (top / name).mkdir()
                soak.junk.add(top / name)
