"""Boots the containers when the runtime starts, and ends them at its shutdown."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final

from northstar import core
from northstar.api import RefusedError, error
from northstar.core import boot as core_boot
from northstar.core import events
from northstar.core.update import boot_cause, unsettled
from northstar.linux import procfs
from northstar.model import Container, Name, NorthstarError, Version, sentence
from northstar.runtime import logs
from northstar.runtime.executor import Executor
from northstar.runtime.repository import NAMED_MAX, Repository
from northstar.runtime.state_store import StateStore

log = logging.getLogger("northstar.runtime")

_REQUESTS_TIMEOUT: Final = 10.0
"""Seconds that the shutdown waits for requests, and for images to be unmounted."""

_NO_VERSION: Final = Version(0, 0, 0)

_KILL_TIMEOUT: Final = 5.0
"""Seconds that it waits after SIGKILL or a cancellation: some ms unless the kernel blocks."""


_UPDATES_TIMEOUT: Final = 30.0
"""Seconds that the boot waits for updates that a power cut has interrupted: to restore data takes
two renames, and to remove a copy of it may take longer."""


async def load(
    executor: Executor, repositories: Mapping[str, Repository], store: StateStore
) -> None:
    """Load all repositories, and then the updates in progress.

    If two repositories contain the same container, the first one is used.
    """
    records = store.state.records()
    recorded = {c for record in records.values() for c in (record.old, record.new)}
    for repository in repositories.values():
        packages = await repository.load()
        more = "%d more packages of repository %s are skipped"
        with logs.first_few(logging.WARNING, more, repository.identifier, most=NAMED_MAX) as skip:
            for package in packages:
                try:
                    manifest, size = package.npk.manifest, package.npk.size
                    known = package.container in recorded
                    executor.apply(
                        events.PackageLoaded(repository.identifier, manifest, size, known)
                    )
                except RefusedError as refused:
                    reason = str(refused.error)
                    if isinstance(refused.error, error.InstallDuplicate):
                        reason = f"{package.container} is already known"
                    skip("Skipping %s: %s", package.path, reason)
                    package.npk.close()
                else:
                    repository.keep(package)
    floors = store.state.floor_versions()
    if store.lost:
        floors = await _floors_of_packages(executor, store)
    if records or floors:
        executor.apply(events.RecordsLoaded(records, floors))


async def _floors_of_packages(executor: Executor, store: StateStore) -> dict[Name, Version]:
    """Return the newest installed versions, in place of the floors that are lost."""
    floors: dict[Name, Version] = {}
    for container in executor.state.containers:
        floors[container.name] = max(container.version, floors.get(container.name, _NO_VERSION))
    log.warning("The floors of all names are now their newest installed versions")
    try:
        await store.write_floors(floors)
    except (OSError, NorthstarError) as failure:
        log.error("Cannot store them: %s", sentence(failure))
    return floors


async def boot(executor: Executor) -> None:
    """Mount the images and start the apps of the boot.

    A failure does not affect the other containers. If a critical one does not start, the runtime
    ends: `Executor.failed` is done.
    """
    if not await executor.wait_until(lambda: not unsettled(executor.state), _UPDATES_TIMEOUT):
        log.warning("An update that was interrupted does not end; the boot goes on without it")
    images = core_boot.images(executor.state)
    mounting = [executor.request(events.MountRequested(container)) for container in images]
    for failure in await _all(mounting):
        text = sentence(failure)
        log.warning("%s%s", text[:1].upper(), text[1:])
    for older, newer in core_boot.not_started(executor.state):
        log.warning("%s is not started: %s is newer", older, newer)
    apps = core_boot.apps(executor.state)
    # The core has logged each failure, and decided its consequences. The order of the requests
    # matters: an app that must wait for another one is requested after it, and only then.
    starts = [
        executor.requests.submit(events.StartRequested(app, cause=boot_cause(executor.state, app)))
        for app in apps
    ]
    executor.apply(events.BootOrdered())
    await _all(starts)


async def _all(requests: Sequence[Awaitable[bool]]) -> list[BaseException]:
    """Await all requests, and return the failures."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]


async def shut_down(executor: Executor, grace: float, limit: float) -> list[Container]:
    """End all containers, in the reverse order of their `after`; then unmount all images.

    Args:
        executor: the registry.
        grace: seconds from SIGTERM to SIGKILL for a container without `service.stop`.
        limit: seconds until all containers that still exist get SIGKILL.

    Returns:
        Containers that did not exit after SIGKILL: they are frozen, or wait for a device or a file
        system that does not answer.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    executor.apply(events.ShutdownBegan())
    # Waiting for a loop device, or a data wipe, may take longer than the shutdown may.
    executor.give_up.set()
    await _finish_requests(executor, min(limit, _REQUESTS_TIMEOUT))
    executor.apply(events.StopAll(round(grace * 1e9)))
    # A container that SIGKILL has not ended is not worth the time until the limit.
    await executor.wait_until(lambda: core.all_killed(executor.state), max(end - loop.time(), 0.0))
    if not core.all_killed(executor.state):
        log.warning("The containers do not end within %g seconds", limit)
        executor.apply(events.SignalAll(signal.SIGKILL))
    await executor.wait_until(lambda: not core.with_process(executor.state), _KILL_TIMEOUT)
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


async def _finish_requests(executor: Executor, seconds: float) -> None:
    # Requests in progress are completed first, so that the steps below see their results. New
    # requests are refused: they must neither delay the shutdown nor mount an image again.
    if not await executor.wait_until(executor.is_idle, seconds):
        number = await executor.cancel_operations(_KILL_TIMEOUT)
        log.warning("%d operations do not end, and are cancelled", number)
