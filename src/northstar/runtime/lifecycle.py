"""Boots the containers when the runtime starts, and ends them at its shutdown."""

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

_REQUESTS_TIMEOUT: Final = 10.0
"""Seconds that the shutdown waits for requests, and for images to be unmounted."""

_KILL_TIMEOUT: Final = 5.0
"""Seconds that it waits after SIGKILL or a cancellation: some ms unless the kernel blocks."""


async def load(executor: Executor, repositories: Mapping[str, Repository]) -> None:
    """Load all repositories; if two contain the same container, the first one is used."""
    for repository in repositories.values():
        packages = await repository.load()
        more = "%d more packages of repository %s are skipped: they are already known"
        with logs.first_few(logging.WARNING, more, repository.identifier, most=NAMED_MAX) as skip:
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
    """Mount the images and start the apps of the boot.

    A failure does not affect the other containers. If a critical one does not start, the runtime
    ends: `Executor.failed` is done.
    """
    images = core_boot.images(executor.state)
    mounting = [executor.request(events.MountRequested(container)) for container in images]
    for failure in filter(None, await _all(mounting)):
        text = str(failure)
        log.warning("%s%s", text[:1].upper(), text[1:])
    apps = core_boot.apps(executor.state)
    # The core has logged each failure, and decided its consequences.
    await _all([executor.request(events.StartRequested(app, boot=True)) for app in apps])


async def _all(requests: Sequence[Awaitable[None]]) -> list[BaseException | None]:
    return list(await asyncio.gather(*requests, return_exceptions=True))


async def shut_down(executor: Executor, grace: float) -> list[Container]:
    """End all containers: SIGTERM, and after `grace` seconds SIGKILL; then unmount all images.

    Returns:
        Containers that did not exit after SIGKILL: they are frozen, or wait for a device or a file
        system that does not answer.
    """
    executor.apply(events.ShutdownBegan())
    # Waiting for a loop device, or a data wipe, may take longer than the shutdown may.
    executor.give_up.set()
    await _finish_requests(executor)
    for number, timeout in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_TIMEOUT)):
        executor.apply(events.SignalAll(number))
        await executor.wait_until(lambda: not core.with_process(executor.state), timeout)
    stuck = core.with_process(executor.state)
    for container in stuck:
        members = procfs.process_group(executor.running[container].pid)
        states = ", ".join(f"{pid} ({state})" for pid, state in members.items())
        log.error("Cannot end %s, processes and states: %s", container, states)
    # Images that these containers use stay mounted.
    executor.apply(events.UmountAll())
    if not await executor.wait_until(executor.is_idle, _REQUESTS_TIMEOUT):
        await executor.cancel_operations(_KILL_TIMEOUT)
    return stuck


async def _finish_requests(executor: Executor) -> None:
    # Requests in progress are completed first, so that the steps below see their results. New
    # requests are refused: they must neither delay the shutdown nor mount an image again.
    if not await executor.wait_until(executor.is_idle, _REQUESTS_TIMEOUT):
        number = await executor.cancel_operations(_KILL_TIMEOUT)
        log.warning("%d operations do not end, and are cancelled", number)
