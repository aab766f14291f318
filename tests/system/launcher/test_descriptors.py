"""The runtime without a free descriptor: it cannot receive the pidfd of a launched init."""

from __future__ import annotations

import asyncio
import os
import resource
from typing import cast

import pytest

from northstar.launch.launcher import Launcher
from northstar.launch.plan import LaunchPlan
from northstar.model import LaunchError, Signalled
from tests.system.launcher.driver import DEADLINE, Image, children, encode, operations

pytestmark = pytest.mark.root


class Plan:
    """A plan of the driver, with the interface that `Launcher` uses."""

    descriptors = ("null", "null", "null")
    attaches = False

    def __init__(self, image: Image) -> None:
        self._plan = operations(image, "pause", descriptors=(1, 2, 3))

    def encode(self) -> bytes:
        return encode(self._plan)


def test_no_free_descriptor_for_the_pidfd(image: Image) -> None:
    before = set(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def launch() -> None:
        launcher = Launcher.load()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            plan = cast("LaunchPlan", Plan(image))
            init = launcher.launch(plan, {"null": null}, lambda _: None)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                async with asyncio.timeout(DEADLINE):
                    with pytest.raises(LaunchError, match="Too many open files"):
                        await init.ready
                    # As the runtime does after a failed start.
                    init.kill()
                    assert await init.exited == Signalled(9)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        finally:
            os.close(null)
            launcher.close()

    children_before = children()
    asyncio.run(launch())
    assert children() == children_before
    assert set(os.listdir("/proc/self/fd")) == before
