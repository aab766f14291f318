"""The launcher that stays: many launches by one process, its failures, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from northstar.launch.launcher import Init, Launcher
from northstar.launch.plan import LaunchPlan
from northstar.launch.plan_ops import REQUEST_MAX, Op
from northstar.launch.serving import ServingLauncher
from northstar.model import LaunchError, Signalled
from tests.system.launcher.driver import DEADLINE, Image, Operation, children, encode, operations

pytestmark = pytest.mark.root


class Plan:
    """A plan of the driver, with the interface that `Launcher` uses."""

    descriptors = ("null", "null", "null")

    def __init__(self, plan: list[Operation], *, attaches: bool = True) -> None:
        self._plan = plan
        self.attaches = attaches

    @property
    def operations(self) -> list[Operation]:
        return self._plan

    def encode(self) -> bytes:
        return encode(self._plan)


class Served:
    """A `Launcher` with a launcher that stays."""

    def __init__(self, launcher: Launcher, null: int) -> None:
        self.launcher = launcher
        self._null = {"null": null}

    @property
    def process(self) -> ServingLauncher:
        assert self.launcher._serving is not None
        return self.launcher._serving

    def launch(self, plan: Plan) -> Init:
        return self.launcher.launch(cast("LaunchPlan", plan), self._null, lambda _: None)


def served(check: Callable[[Served], Awaitable[None]], *, own_namespace: bool = True) -> None:
    """Run a check, and assert that it leaves no process and no descriptor."""

    async def run() -> None:
        launcher = Launcher.load()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            async with asyncio.timeout(DEADLINE):
                await launcher.serve(own_namespace=own_namespace)
                await check(Served(launcher, null))
        finally:
            os.close(null)
            launcher.close()

    before, processes = set(os.listdir("/proc/self/fd")), children()
    asyncio.run(run())
    assert children() == processes
    assert set(os.listdir("/proc/self/fd")) == before


async def started(init: Init) -> None:
    await init.ready
    init.go()
    await init.started


async def end(*inits: Init) -> None:
    for init in inits:
        init.kill()
        assert await init.exited == Signalled(9)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def numbers(pid: int) -> list[int]:
    return sorted(map(int, os.listdir(f"/proc/{pid}/fd")))


def test_many_launches_at_once_by_one_process(image: Image) -> None:
    plan = Plan(operations(image, "pause", descriptors=(1, 2, 3)))

    async def check(served: Served) -> None:
        own = numbers(served.process.pid)
        inits = [served.launch(plan) for _ in range(20)]
        await asyncio.gather(*map(started, inits))
        assert served.process.ended is None
        assert all(init.launcher_pid == 0 for init in inits)
        # Nothing of a request stays.
        assert numbers(served.process.pid) == own
        assert {parent(init.pid) for init in inits} == {os.getpid()}
        await end(*inits)

    served(check)


@pytest.mark.parametrize("own_namespace", [True, False])
def test_its_mount_namespace(image: Image, *, own_namespace: bool) -> None:
    async def check(served: Served) -> None:
        own = os.readlink(f"/proc/{served.process.pid}/ns/mnt")
        assert (own == os.readlink("/proc/self/ns/mnt")) is not own_namespace
        init = served.launch(Plan(operations(image, "pause", descriptors=(1, 2, 3))))
        await started(init)
        await end(init)

    served(check, own_namespace=own_namespace)


@pytest.mark.parametrize(
    ("attaches", "env"), [(False, []), (True, ["x" * REQUEST_MAX])], ids=["images", "size"]
)
def test_a_plan_that_it_cannot_perform_gets_another_launcher(
    image: Image, env: list[str], *, attaches: bool
) -> None:
    """Its namespace lacks the images, or the request is too large."""
    plan = Plan(operations(image, "pause", descriptors=(1, 2, 3), env=env), attaches=attaches)

    async def check(served: Served) -> None:
        init = served.launch(plan)
        assert init.serving is None
        await started(init)
        await end(init)

    served(check)


def test_a_refused_plan_ends_no_other(image: Image) -> None:
    good = operations(image, "pause", descriptors=(1, 2, 3))
    bad = [operation for operation in good if operation[0] != Op.PIVOT]
    entering: list[Operation] = [(Op.ENTER, 1, 0x20000)]

    async def check(served: Served) -> None:
        before = served.launch(Plan(good))
        for plan in (bad, entering, []):
            refused = served.launch(Plan(plan))
            with pytest.raises(LaunchError, match="launch plan"):
                await refused.ready
            await refused.exited
        after = served.launch(Plan(good))
        await asyncio.gather(started(before), started(after))
        assert after.serving is before.serving
        await end(before, after)

    served(check)


def test_its_end_ends_no_container_and_the_next_launch_spawns_another(
    image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan(operations(image, "pause", descriptors=(1, 2, 3)))

    async def check(served: Served) -> None:
        first = served.process
        running = served.launch(plan)
        await started(running)
        os.kill(first.pid, signal.SIGSTOP)
        waiting = served.launch(plan)  # it is in the socket
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(LaunchError, match=r"its launcher ended with Signalled\(SIGKILL\)"):
            await waiting.ready
        assert await waiting.exited == Signalled(9)
        later = served.launch(plan)
        await started(later)
        assert later.serving is served.process is not first
        assert not running.exited.done()
        await end(running, later)

    with caplog.at_level(logging.WARNING):
        served(check)
    assert "the next start spawns another" in caplog.text


def test_it_ends_with_the_runtime(image: Image) -> None:
    """It has the only other end of its socket: no init keeps it."""
    plan = Plan(operations(image, "pause", descriptors=(1, 2, 3)))

    async def check(served: Served) -> None:
        init = served.launch(plan)
        await init.ready
        loop = asyncio.get_running_loop()
        loop.remove_reader(served.process._socket.fileno())
        served.process._socket.close()
        pid, status = await asyncio.to_thread(os.waitpid, served.process.pid, 0)
        assert (pid, status) == (served.process.pid, 0)
        served.launcher._serving = None
        await end(init)

    served(check)
