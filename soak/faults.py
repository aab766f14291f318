"""What goes wrong: with clients, with payloads, with the machine.

Each fault is a coroutine that a worker runs as one of its steps. What takes long goes on in the
background while the worker goes on, and is waited for at the end of the round.
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
"""The runtime's limit for a line."""

DEADLINE: Final = 60.0

FAULTS: Final[list[Fault]] = []


def fault(function: Fault) -> Fault:
    """Register a fault under its function's name."""
    FAULTS.append(function)
    return function


def any_of(chance: random.Random) -> Fault:
    """Choose a fault; it is counted when it runs."""
    chosen = chance.choice(FAULTS)

    async def counted(soak: Soak, worker: Worker) -> None:
        name = chosen.__name__.replace("_", " ")
        soak.say(f"client {worker.number} fault: {name}")
        soak.faults[name] += 1
        await chosen(soak, worker)

    return counted


class LostError(Exception):
    """The runtime was taken down before it answered."""


class Raw:
    """A connection without a client that knows what is proper."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *messages: object) -> None:
        """Send messages, each on its line."""
        self.writer.write(b"".join(json.dumps(m).encode() + b"\n" for m in messages))

    async def until_closed(self) -> bytes:
        """Return what comes until the runtime closes the connection."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def raw(soak: Soak, *, subscribe: bool = False) -> AsyncIterator[Raw]:
    """Connect and greet.

    Raises:
        LostError: the runtime was taken down.
        Violation: it ended the connection though nobody took it down.
    """
    soak.waiting += 1
    try:
        async with asyncio.timeout(DEADLINE):
            path = soak.runtime.url.removeprefix("unix://")
            reader, writer = await asyncio.open_unix_connection(path, limit=2**24)
            try:
                connection = Raw(reader, writer)
                words = {"version": "0.9.2", "subscribe_notifications": subscribe}
                connection.send({"connect": words})
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
    """Return an operation as a message."""
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


# Clients that go away, say nothing, or say nonsense


@fault
async def gone_before_the_answer(soak: Soak, worker: Worker) -> None:
    """The request may have been read or not; what was begun must be carried through."""
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
async def gone_within_a_package(soak: Soak, worker: Worker) -> None:
    """Nothing of it may stay."""
    group = soak.any_group(worker.chance)
    operation = worker.operation("install", group)
    package = soak.package(group, operation)
    part = worker.chance.randrange(len(package))
    async with raw(soak) as connection:
        connection.send(request(group, operation, len(package)))
        connection.writer.write(package[:part])


@fault
async def silent_within_a_package(soak: Soak, worker: Worker) -> None:
    """The runtime closes the connection, and nothing of the package stays."""
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
    """It comes in pieces; it occupies nobody, and is judged as any other."""
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
async def package_shorter_than_said(soak: Soak, worker: Worker) -> None:
    """What is too much are no messages: there is an answer, and then the end."""
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
    """The connection is closed, and no other."""
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
    """And then nothing, for a while."""
    pause = worker.chance.random()

    async def hold() -> None:
        async with raw(soak) as connection:
            connection.writer.write(b'{"request":{"uninstall":{"container":"app0:1.0')
            await asyncio.sleep(pause)

    soak.background(hold())


@fault
async def a_crowd(soak: Soak, worker: Worker) -> None:
    """Fifty who connect, and half of them say nothing."""
    del worker

    async def one(number: int) -> None:
        async with raw(soak) as connection:
            if number % 2:
                connection.send({"request": "list"})
                await connection.reader.readuntil(b"\n")

    async def crowd() -> None:
        await asyncio.gather(*map(one, range(50)))

    soak.background(crowd())


@fault
async def too_many_requests(soak: Soak, worker: Worker) -> None:
    """More than the limit allows: they wait, and all are answered."""
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
async def answers_that_nobody_reads(soak: Soak, worker: Worker) -> None:
    """For a while; then they are all there."""
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
async def notifications_that_nobody_reads(soak: Soak, worker: Worker) -> None:
    """For a while; then they are those that the others got, without a gap."""
    pause = worker.chance.random() * 2

    async def lazy() -> None:
        async with raw(soak, subscribe=True) as connection:
            # Whoever is subscribed gets all that is published from now on, perhaps some before.
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
async def a_stopped_process(soak: Soak, worker: Worker) -> None:
    """The pinger, which is subscribed, is stopped and goes on later."""
    pause = worker.chance.random() * 2
    pid = soak.pinger.pid

    async def freeze() -> None:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(pause)
        os.kill(pid, signal.SIGCONT)

    soak.background(freeze())


# Payloads and the machine


@fault
async def killed_from_the_host(soak: Soak, worker: Worker) -> None:
    """Init, or the first process below it, of the first container found to run."""
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
                # If the number is still that init's, the handle is what it was meant to be.
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
        process = (await worker.tell(lambda: client.inspect(container))).process
    except api.RefusedError:
        return 0
    return process.pid if process is not None else 0


def _child(pid: int) -> int:
    return host.descendants(pid)[0]


@fault
async def no_descriptors(soak: Soak, worker: Worker) -> None:
    """The runtime may open only a few, while this client and all others go on."""
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
    """Files that are no packages, one perhaps where a package is to be."""
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
async def cgroups_that_are_there(soak: Soak, worker: Worker) -> None:
    """Empty ones, left over by whomever: a container that needs one takes it."""
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
