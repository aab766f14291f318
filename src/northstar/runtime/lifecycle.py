"""How the containers come up when the runtime starts, and how they end with it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final

from northstar import core
from northstar.api import RefusedError
from northstar.core import boot as core_boot
from northstar.core import events
from northstar.linux import procfs
from northstar.model import Container
from northstar.runtime import logs
from northstar.runtime.executor import Executor
from northstar.runtime.repository import NAMED_MAX, Repository

log = logging.getLogger("northstar.runtime")

_PATIENCE: Final = 10.0
"""How long, in seconds, the shutdown waits for requests and for images to be unmounted."""

_DEATH: Final = 5.0
"""How long, in seconds, it waits for what was killed: some ms, unless the kernel holds it."""


async def load(executor: Executor, repositories: Mapping[str, Repository]) -> None:
    """Load all repositories; of a container in two of them the first one's counts."""
    for repository in repositories.values():
        packages = await repository.load()
        twice = "%d more packages of repository %s are skipped: they are already known"
        with logs.first_few(logging.WARNING, twice, repository.identifier, most=NAMED_MAX) as skip:
            for package in packages:
                try:
                    manifest, size = package.npk.manifest, package.npk.size
                    executor.apply(events.PackageLoaded(repository.identifier, manifest, size))
                except RefusedError:
                    skip("Skipping %s: %s is already known", package.path, package.container)
                    package.npk.close()
                else:
                    repository.keep(package)


async def boot(executor: Executor) -> None:
    """Mount and start what the runtime itself mounts and starts.

    No container keeps the others from that. A critical one that does not start ends the runtime:
    `Executor.failed` tells.
    """
    images = core_boot.images(executor.state)
    mounting = [executor.request(events.MountRequested(container)) for container in images]
    for failure in filter(None, await _all(mounting)):
        text = str(failure)
        log.warning("%s%s", text[:1].upper(), text[1:])
    apps = core_boot.apps(executor.state)
    # The core has logged, and decided, what a failure means.
    await _all([executor.request(events.StartRequested(app, boot=True)) for app in apps])


async def _all(requests: Sequence[Awaitable[None]]) -> list[BaseException | None]:
    return list(await asyncio.gather(*requests, return_exceptions=True))


async def shut_down(executor: Executor, grace: float) -> list[Container]:
    """End all containers: TERM, and after `grace` seconds KILL; then unmount everything.

    Returns:
        Those that the kernel does not let go of, though they were killed: they are frozen, or wait
        for a device or a file system that does not answer.
    """
    executor.apply(events.ShutdownBegan())
    # An attempt to get a loop device, or a wipe, may take longer than the shutdown may.
    executor.give_up.set()
    await _finish_requests(executor)
    for number, timeout in ((signal.SIGTERM, grace), (signal.SIGKILL, _DEATH)):
        executor.apply(events.SignalAll(number))
        await executor.wait_until(lambda: not core.with_process(executor.state), timeout)
    held = core.with_process(executor.state)
    for container in held:
        members = procfs.process_group(executor.running[container].pid)
        states = ", ".join(f"{pid} ({state})" for pid, state in members.items())
        log.error("Cannot end %s, processes and states: %s", container, states)
    # What those use stays mounted until they end.
    executor.apply(events.UmountAll())
    if not await executor.wait_until(executor.is_idle, _PATIENCE):
        await executor.cancel_operations(_DEATH)
    return held


async def _finish_requests(executor: Executor) -> None:
    # What has begun comes to its end first, so that it is seen afterwards. What comes now is
    # refused: clients that go on asking must not keep us here, nor mount anything again.
    if not await executor.wait_until(executor.is_idle, _PATIENCE):
        number = await executor.cancel_operations(_DEATH)
        log.warning("%d operations do not come to an end, and are given up", number)
