"""A client of the soak: a random sequence of requests and faults that its seed determines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from northstar.api import RefusedError, response
from northstar.client import Client, ConnectError, DisconnectedError
from soak import faults, world
from soak.checker import Checker, Violation
from soak.faults import LostError
from soak.model import OK, Answer, Operation, answer_of

if TYPE_CHECKING:
    from soak.soak import Soak

T = TypeVar("T")

ANSWER_TIMEOUT: Final = 60.0
"""Seconds for an answer, also on a busy machine."""

SIGNALS: Final = (*[9] * 10, *[15] * 3, 2, 1, 10, 12, 14, 18, 19, 17, 0, 32, -1)

WEIGHTS: Final = {
    "install": 22,
    "start": 30,
    "kill": 30,
    "uninstall": 4,
    "mount": 6,
    "umount": 8,
    "inspect": 8,
    "list": 4,
    "small": 2,
}


class Worker:
    """One client. Its steps depend only on its seed and number, not on the answers."""

    def __init__(self, soak: Soak, number: int, fault_rate: float) -> None:
        self.soak = soak
        self.number = number
        self.chance = random.Random(f"{soak.seed} {number}")
        self._fault_rate = fault_rate
        self._client: Client | None = None

    async def run(self) -> None:
        """Make the steps of this round."""
        while self.soak.take():
            try:
                if self.soak.restart_is_due():
                    await self.soak.restart()
                await self.connect()
                if self.chance.random() < self._fault_rate:
                    await faults.any_of(self.chance)(self.soak, self)
                else:
                    await self.request()
            except LostError:
                await self.soak.up.wait()

    async def connect(self, *, early: bool = False) -> Client:
        """Return the client of this worker's connection, a new one if the last was lost.

        Only the caller that starts the runtime may connect `early`.
        """
        if not early and not self.soak.up.is_set():
            raise LostError
        if self._client is None:
            self._client = await attempt(
                self.soak, lambda: Client.connect(self.soak.runtime.url, timeout=ANSWER_TIMEOUT)
            )
        return self._client

    def forget(self) -> None:
        """Connect again before the next request: the runtime was restarted."""
        self._client = None

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def request(self) -> None:
        """Make a random request, and check the answer with the model."""
        chance = self.chance
        kind = chance.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        if kind == "small":
            await self._small()
        elif kind == "list":
            await self.list()
        elif kind in ("mount", "umount"):
            await self._mounts(kind)
        else:
            group = self.soak.any_group(chance)
            await self.ask(group, self.operation(kind, group))

    def operation(self, kind: str, group: Checker, *, abandoned: bool = False) -> Operation:
        """Return a random operation of this kind."""
        chance = self.chance
        number = chance.randrange(len(group.cluster.containers))
        made = Operation(kind, number, abandoned=abandoned)
        if kind == "install":
            made.repository = chance.choices(["mem", "fs", "nope", "full"], [10, 10, 1, 1])[0]
            if chance.random() < 0.03:
                made.container = -1
        elif kind == "uninstall":
            made.wipe = chance.random() < 0.5
        elif kind == "kill":
            made.signal = chance.choice(SIGNALS)
        elif kind == "start":
            made.program = world.program(chance, group.cluster.containers[number])
        return made

    async def ask(self, group: Checker, operation: Operation) -> Answer:
        """Send a request, and check its answer.

        Raises:
            LostError: the runtime was stopped meanwhile.
        """
        await self.soak.wait_for_room(group)
        client = await self.connect()
        self.soak.sent(self.number, group, operation)
        answer = await self._answer(lambda: self._call(client, group, operation))
        self.soak.answered(group, operation, answer)
        return answer

    async def unchecked(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a request that the model does not check."""
        self.soak.waiting += 1
        try:
            return await attempt(self.soak, call)
        except LostError:
            self._client = None
            raise
        finally:
            self.soak.waiting -= 1

    async def _answer(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            return await self.unchecked(call)
        except RefusedError as refusal:
            return answer_of(refusal.error)

    async def _call(self, client: Client, group: Checker, operation: Operation) -> Answer:
        container = group.cluster.containers[operation.container]
        match operation.kind:
            case "install":
                package = self.soak.package(group, operation)
                installed = await client.install(package, operation.repository)
                if str(installed) != container:
                    raise Violation(f"{operation} installed {installed} instead")
            case "uninstall":
                await client.uninstall(container, operation.wipe)
            case "kill":
                await client.kill(container, operation.signal)
            case "start":
                program = operation.program
                assert program is not None
                environment = dict(program.environment)
                await client.start(container, program.init, program.arguments, environment)
            case "inspect":
                data = await client.inspect(container)
                return ("inspect", data.repository, data.mounted, data.process is not None)
        return OK

    async def list(self) -> None:
        """Request the list: the part of each cluster is checked separately."""
        await self.soak.wait_for_room(*self.soak.groups)
        client = await self.connect()
        operations = [(group, Operation("list")) for group in self.soak.groups]
        for group, operation in operations:
            self.soak.sent(self.number, group, operation)

        async def call() -> Answer:
            return ("list", frozenset(map(str, await client.list())))

        _, found = await self._answer(call)
        assert isinstance(found, frozenset)
        unknown = found
        for group, operation in operations:
            mine = found & set(group.cluster.containers)
            unknown -= mine
            self.soak.answered(group, operation, ("list", mine))
        if unknown:
            raise Violation(f"the list contains {unknown}, which no client installed")

    async def _mounts(self, kind: str) -> None:
        """Mount or unmount several containers with one request, and check each result."""
        chosen = {}
        for _ in range(self.chance.randint(1, 3)):
            group = self.soak.any_group(self.chance)
            operation = self.operation(kind, group)
            chosen[group.cluster.containers[operation.container]] = (group, operation)
        await self.soak.wait_for_room(*(group for group, _ in chosen.values()))
        client = await self.connect()
        for group, operation in chosen.values():
            self.soak.sent(self.number, group, operation)

        async def call() -> Answer:
            return tuple(await getattr(client, kind)(*chosen))

        results = await self._answer(call)
        for (group, operation), result in zip(chosen.values(), results, strict=True):
            assert isinstance(result, response.Ok | response.Failed)
            answer = OK if isinstance(result, response.Ok) else answer_of(result.error)
            self.soak.answered(group, operation, answer)

    async def _small(self) -> None:
        """Make requests that change nothing and have known answers."""
        client = await self.connect()
        shared = self.chance.randbytes(self.chance.randrange(100))

        async def call() -> Answer:
            token = await client.token_create("extern", shared)
            return (
                str(await client.ident()),
                await client.repositories(),
                (await client.token_verify(token, "extern", shared)).value,
                (await client.token_verify(token, "extern", shared + b"x")).value,
            )

        answers = await self._answer(call)
        self.soak.counts["small"] += 1
        if answers != ("extern:0.0.0", ("fs", "full", "mem"), "Ok", "Invalid"):
            raise Violation(f"small requests were answered {answers}")


async def attempt(soak: Soak, call: Callable[[], Awaitable[T]]) -> T:
    """Await a call that needs a running runtime; the caller handles a refusal.

    Raises:
        LostError: the runtime was stopped.
        Violation: it closed the connection, or did not answer, and was not stopped.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await call()
    except TimeoutError:
        raise Violation(f"no answer within {ANSWER_TIMEOUT:g} s") from None
    except (ConnectError, DisconnectedError, OSError, asyncio.IncompleteReadError) as failure:
        if soak.up.is_set():
            raise Violation(f"the connection failed: {failure}") from failure
        raise LostError from None
