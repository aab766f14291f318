"""The heart: the containers, and the operations on them.

Operations on different containers run concurrently, those on one container one after the other
(`Installed.lock`). What must be decided atomically between containers (who runs under a name, who
uses a resource, who is being removed) is decided between two awaits, in the event loop's thread.

A started operation is carried through even if the client that asked for it goes away: each runs
in a task of its own, which the shutdown waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final, TypeVar

from northstar.api import RefusedError, error, notification, response
from northstar.deadline.loop import wait
from northstar.launch.plan import Command, Places
from northstar.linux import loop, procfs
from northstar.manifest import Autostart, Resource
from northstar.model import (
    Container,
    Exited,
    ExitStatus,
    Name,
    NorthstarError,
    signal_name,
)
from northstar.runtime import mounts, wiping
from northstar.runtime import process as processes
from northstar.runtime.config import Config
from northstar.runtime.containers import Installed, command_of, newest_match
from northstar.runtime.events import Notifications
from northstar.runtime.process import Host, Process
from northstar.runtime.repository import Package, Reception, Repository
from northstar.runtime.statistics_cache import StatisticsCache

log = logging.getLogger("northstar.runtime")

T = TypeVar("T")

_PATIENCE: Final = 10.0
"""How long the shutdown waits for operations that have begun, in seconds."""

_DEATH: Final = 5.0
"""How long it waits for what was killed: some milliseconds, unless the kernel holds it."""


class PackageWriter:
    """A package that comes in over a console connection; `commit` or `abort` ends it."""

    def __init__(self, state: State, repository: Repository, reception: Reception) -> None:
        self._state = state
        self._repository = repository
        self._reception = reception
        self._committing: asyncio.Task[Container] | None = None

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        await self._reception.write(chunk)

    async def commit(self) -> Container:
        """Verify what came, keep it and make it known."""
        self._committing = self._state.spawn(self._commit())
        return await asyncio.shield(self._committing)

    async def _commit(self) -> Container:
        package = await self._reception.commit(self._state.admit)
        self._state.add(package, self._repository)
        return package.container

    async def abort(self) -> None:
        """Forget what came; idempotent. A commit that is going on is carried through."""
        if self._committing is not None:
            await asyncio.wait((self._committing,))
        await self._reception.abort()


class State:
    """All containers. The console's operations are methods of it; each refuses by RefusedError."""

    def __init__(
        self,
        config: Config,
        host: Host,
        notifications: Notifications,
        shutdown: Callable[[], None],
    ) -> None:
        self._config = config
        self._host = host
        self._notifications = notifications
        self._shutdown = shutdown
        self._repositories: dict[str, Repository] = {}
        self._installed: dict[Container, Installed] = {}
        self._running: dict[Name, Container] = {}
        self._operations: set[asyncio.Task[Any]] = set()
        self._exits: set[asyncio.Task[Any]] = set()
        self._statistics = StatisticsCache()
        self._give_up = threading.Event()
        self._attach = functools.partial(
            loop.attach, timeout=config.loop_device_timeout, give_up=self._give_up
        )
        self._stopping = False
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # The way in: what was stored when the runtime starts.

    async def load(self, repositories: Sequence[Repository]) -> None:
        """Load all repositories; of a container in two of them the first one's counts.

        Raises:
            ConfigurationError: a repository is not usable.
        """
        for repository in repositories:
            await repository.load(self._installed.__contains__)
            self._repositories[repository.identifier] = repository
            for package in repository.packages.values():
                self._add(package, repository)

    def _add(self, package: Package, repository: Repository) -> None:
        container = package.container
        target = os.path.join(self._config.run_dir, str(container))
        self._installed[container] = Installed(package, repository, target)
        for warning in package.npk.warnings:
            log.warning("%s: %s", container, warning)

    async def boot(self) -> None:
        """Mount and start what is to be mounted and started when the runtime starts.

        Raises:
            RefusedError: a critical container could not be started.
        """
        wanted = [e for e in self._installed.values() if e.repository.config.mount_on_start]
        apps = [e for e in self._installed.values() if e.manifest.autostart is not None]
        early = {*wanted, *apps, *self._resources_of(apps)}
        # Carried through, since a signal may end the boot at any time: a mount that nobody waits
        # for would come after the shutdown has unmounted what it knew of.
        mounting = (self._carry_through(self._mount_or_warn(entry)) for entry in early)
        await asyncio.gather(*mounting)
        await asyncio.gather(*(self._autostart(entry) for entry in apps))

    def _resources_of(self, apps: Sequence[Installed]) -> Iterator[Installed]:
        for entry in apps:
            for mount in entry.manifest.mounts.values():
                if isinstance(mount, Resource):
                    match = newest_match(mount, self._installed)
                    if match is not None:
                        yield self._installed[match]

    async def _mount_or_warn(self, entry: Installed) -> None:
        try:
            await self._mount_image(entry)
        except (NorthstarError, OSError) as failure:
            log.warning("Cannot mount %s: %s", entry.container, failure)

    async def _autostart(self, entry: Installed) -> None:
        try:
            await self.start(entry.container)
        except Exception as failure:
            if entry.manifest.autostart is Autostart.CRITICAL:
                raise
            # Even our own mistake about one container must not keep a device from booting.
            ours = not isinstance(failure, RefusedError)
            log.warning("Cannot start %s: %s", entry.container, failure, exc_info=ours)

    # Questions.

    def list(self) -> list[Container]:
        """Return all installed containers, in their order."""
        return sorted(self._installed)

    def repositories(self) -> Sequence[str]:
        """Return the identifiers of all repositories, in their order."""
        return sorted(self._repositories)

    async def inspect(self, container: Container) -> response.ContainerData:
        """Return what is known of a container."""
        entry = self._get(container)
        process = None
        if entry.process is not None:
            process = response.Process(
                pid=entry.process.pid,
                uptime_ns=entry.process.uptime_ns,
                statistics=self._statistics.read(entry.process.cgroup),
            )
        return response.ContainerData(
            manifest=entry.serialised,
            repository=entry.repository.identifier,
            mounted=entry.mounted,
            process=process,
        )

    def _get(self, container: Container) -> Installed:
        entry = self._installed.get(container)
        if entry is None:
            raise RefusedError(error.InvalidContainer(container))
        return entry

    # Mounting.

    async def mount(self, container: Container) -> None:
        """Mount a container's image."""
        self._refuse_if_stopping()
        await self._carry_through(self._mount(container))

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise RefusedError(error.Unexpected("the runtime is shutting down"))

    async def _mount(self, container: Container) -> None:
        async with self._exclusively(container) as entry:
            if entry.mounted:
                raise RefusedError(error.InvalidContainer(container))
            try:
                await self._mount_image(entry)
            except (NorthstarError, OSError) as failure:
                reason = f"cannot mount {container}: {failure}"
                raise RefusedError(error.Unexpected(reason)) from failure

    async def umount(self, container: Container) -> None:
        """Unmount a container's image that nobody uses."""
        self._refuse_if_stopping()
        await self._carry_through(self._umount(container))

    async def _umount(self, container: Container) -> None:
        async with self._exclusively(container) as entry:
            if not entry.mounted:
                raise RefusedError(error.UmountBusy(container))
            await entry.umount()

    async def _mount_image(self, entry: Installed) -> None:
        await entry.mount(self._attach)

    # Starting and killing.

    async def start(
        self,
        container: Container,
        init: str | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a container; returns when its payload runs.

        Args:
            container: which.
            init: instead of the manifest's, with `<INIT>` in it replaced by that.
            arguments: instead of the manifest's, if there are any.
            environment: instead of the manifest's, if there is any.
        """
        await self._carry_through(self._start(container, init, arguments, environment or {}))

    async def _start(
        self,
        container: Container,
        init: str | None,
        arguments: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        begun = time.monotonic()
        # A second version is refused at once, even while the first one is still starting.
        self._refuse_if_running(self._get(container))
        async with self._exclusively(container) as entry:
            self._refuse_if_running(entry)
            command = command_of(entry.manifest, init, arguments, environment)
            if self._stopping:
                raise _failed(container, "the runtime is shutting down")
            self._running[container.name] = container
            try:
                with contextlib.ExitStack() as held:
                    resources = self._hold_resources(entry, held)
                    process = await self._launch(entry, command, resources)
                    entry.process = process
                    uses = held.pop_all()
            except BaseException:
                del self._running[container.name]
                raise
        took = time.monotonic() - begun
        log.info("Started %s (%d) in %.3fs", container, process.pid, took)
        self._notifications.publish(notification.Started(container))
        self._watch(self._await_exit(entry, process, uses))

    def _refuse_if_running(self, entry: Installed) -> None:
        running = self._running.get(entry.container.name)
        if running is not None:
            raise RefusedError(error.StartContainerStarted(running))

    def _hold_resources(self, entry: Installed, held: contextlib.ExitStack) -> dict[str, Installed]:
        """Choose a container for each resource mount, by target; used until `held` is closed."""
        user = entry.container
        chosen: dict[str, Installed] = {}
        for target, mount in entry.manifest.mounts.items():
            if not isinstance(mount, Resource):
                continue
            candidates = (c for c, other in self._installed.items() if not other.removed)
            match = newest_match(mount, candidates)
            if match is None:
                raise _missing(user, mount.name, str(mount.version))
            resource = self._installed[match]
            if user not in resource.users:
                resource.users.add(user)
                held.callback(resource.users.discard, user)
            chosen[target] = resource
        return chosen

    async def _launch(
        self, entry: Installed, command: Command, resources: Mapping[str, Installed]
    ) -> Process:
        places = Places(
            root=entry.target,
            persist=os.path.join(self._config.data_dir, entry.container.name),
            sockets=self._config.socket_dir,
            resources={target: resource.target for target, resource in resources.items()},
        )
        try:
            await self._mount_all({entry, *resources.values()})
            await self._check_directories(entry, resources)
            return await processes.start(
                self._host, entry.container, entry.manifest, command, places
            )
        except RefusedError:
            raise
        except (NorthstarError, OSError) as failure:
            raise _failed(entry.container, str(failure)) from failure

    async def _mount_all(self, entries: Collection[Installed]) -> None:
        """Mount what is not mounted, in parallel; the first failure, if any, is raised."""
        # Also what is mounted now but about to be unmounted, by a request that came before this use
        # of it. `Installed.mount` waits for that, and then decides.
        mounting = [self._mount_image(entry) for entry in entries if not entry.ready]
        if not mounting:
            return
        results = await asyncio.gather(*mounting, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _check_directories(
        self, entry: Installed, resources: Mapping[str, Installed]
    ) -> None:
        for target, resource in resources.items():
            mount = entry.manifest.mounts[target]
            assert isinstance(mount, Resource)
            if not await asyncio.to_thread(mounts.has_directory, resource.target, mount.dir):
                version = str(resource.container.version)
                raise _missing(entry.container, mount.name, version)

    async def kill(self, container: Container, number: int) -> None:
        """Send a signal to a container's process group.

        Args:
            container: which.
            number: 1..31.
        """
        await self._carry_through(self._kill(container, number))

    async def _kill(self, container: Container, number: int) -> None:
        async with self._exclusively(container) as entry:
            if entry.process is None:
                raise RefusedError(error.StopContainerNotStarted(container))
            log.info("Killing %s with %s", container, signal_name(number))
            await entry.process.kill(number)

    async def _await_exit(
        self, entry: Installed, process: Process, uses: contextlib.ExitStack
    ) -> None:
        container = entry.container
        status = await process.exited()
        self._log_exit(entry, process, status)
        self._statistics.forget(process.cgroup)
        try:
            await process.release()
        except Exception:
            # What is left behind is in the log; the container has ended all the same.
            log.exception("Cannot clean up after %s", container)
        uses.close()
        entry.process = None
        del self._running[container.name]
        log.info("Container %s exited with status %s", container, status)
        self._notifications.publish(notification.Exit(container, status))
        critical = entry.manifest.autostart is Autostart.CRITICAL
        if critical and status != Exited(0) and not self._stopping:
            self._fail(RefusedError(error.CriticalContainer(container, status)))

    async def wait_failed(self) -> None:
        """Wait until a critical container fails.

        Raises:
            RefusedError: with how it failed.
        """
        await asyncio.shield(self._failed)

    def _log_exit(self, entry: Installed, process: Process, status: ExitStatus) -> None:
        critical = entry.manifest.autostart is Autostart.CRITICAL and not self._stopping
        log.log(
            logging.ERROR if critical else logging.INFO,
            "%s %s exited after %.3fs with status %s",
            "Critical process" if critical else "Process",
            entry.container,
            process.uptime_ns / 1e9,
            status,
        )

    def _fail(self, failure: RefusedError) -> None:
        if not self._failed.done():
            self._failed.set_exception(failure)
            # Not waited for while the runtime still boots, or already ends.
            self._failed.exception()

    # Installing and uninstalling.

    async def begin_install(self, repository: str, size: int) -> PackageWriter:
        """Begin to receive a package of `size` bytes into a repository."""
        into = self._repositories.get(repository)
        if into is None:
            raise RefusedError(error.InvalidRepository(repository))
        into.check_capacity(size)
        return PackageWriter(self, into, await into.receive())

    def admit(self, container: Container) -> None:
        """Refuse a container that is known already, in whatever repository."""
        if any(container in repository.packages for repository in self._repositories.values()):
            raise RefusedError(error.InstallDuplicate(container))

    def add(self, package: Package, repository: Repository) -> None:
        """Take over a package that a repository has just kept."""
        self._add(package, repository)
        log.info("Successfully installed %s", package.container)
        self._notifications.publish(notification.Install(package.container))

    async def uninstall(self, container: Container, wipe: bool) -> None:
        """Remove a container that is not in use, and with `wipe` its persistent data too."""
        self._refuse_if_stopping()
        await self._carry_through(self._uninstall(container, wipe))

    async def _uninstall(self, container: Container, wipe: bool) -> None:
        async with self._exclusively(container) as entry:
            entry.refuse_if_used()
            entry.removed = True
            try:
                await entry.umount()
                await entry.repository.remove(container)
            except OSError as failure:
                reason = f"cannot uninstall {container}: {failure}"
                raise RefusedError(error.Unexpected(reason)) from failure
            finally:
                entry.removed = False
            del self._installed[container]
        # First: it is uninstalled, whatever becomes of its data.
        self._notifications.publish(notification.Uninstall(container))
        if wipe:
            await self._wipe(container)

    async def _wipe(self, container: Container) -> None:
        path = os.path.join(self._config.data_dir, container.name)
        log.info("Wiping persistent data dir %s of %s", path, container)
        try:
            await asyncio.to_thread(wiping.wipe, path)
        except FileNotFoundError:
            return
        except OSError as failure:
            reason = f"{container} is uninstalled, but its data is not wiped: {failure}"
            raise RefusedError(error.Unexpected(reason)) from failure

    # The way out.

    def shutdown(self) -> None:
        """Ask for the shutdown, and return at once."""
        self._shutdown()

    def close(self) -> None:
        """Close all packages."""
        for repository in self._repositories.values():
            repository.close()

    async def stop(self, grace: float) -> Sequence[Container]:
        """End all containers: TERM, and after `grace` seconds KILL; then unmount everything.

        Returns:
            Those that the kernel does not let go of, though they were killed: they are frozen, or
            wait for a device or a file system that does not answer.
        """
        self._stopping = True
        # Who fights for a loop device may do so for longer than the shutdown may take.
        self._give_up.set()
        await self._finish_operations()
        await self._signal_all(signal.SIGTERM)
        if self._exits:
            await wait(self._exits, grace)
        await self._signal_all(signal.SIGKILL)
        if self._exits:
            await wait(self._exits, _DEATH)
        held = [entry for entry in self._installed.values() if entry.process is not None]
        for entry in held:
            assert entry.process is not None
            members = await asyncio.to_thread(procfs.process_group, entry.process.pid)
            states = ", ".join(f"{pid} ({state})" for pid, state in members.items())
            log.error("Cannot end %s, processes and states: %s", entry.container, states)
        # What those use stays mounted until they end.
        idle = [e for e in self._installed.values() if e.process is None and not e.users]
        await asyncio.gather(*(self._umount_or_warn(entry) for entry in idle))
        return [entry.container for entry in held]

    async def _finish_operations(self) -> None:
        # What is under way comes to its end first, so that it is seen afterwards. What comes now
        # is refused: clients that go on asking must not keep us here, nor mount anything again.
        if self._operations:
            _, late = await wait(self._operations, _PATIENCE)
            if late:
                # A start whose init hangs kills it, and unwinds.
                log.warning("%d operations do not come to an end, and are given up", len(late))
                for task in late:
                    task.cancel()
                await wait(late, _DEATH)

    async def _umount_or_warn(self, entry: Installed) -> None:
        try:
            await entry.umount()
        except RefusedError as refused:
            log.warning("%s", refused)

    async def _signal_all(self, number: int) -> None:
        for process in [entry.process for entry in self._installed.values() if entry.process]:
            log.info("Killing %s with %s", process.container, signal_name(number))
            await process.kill(number)

    # How operations run.

    @contextlib.asynccontextmanager
    async def _exclusively(self, container: Container) -> AsyncIterator[Installed]:
        entry = self._get(container)
        async with entry.lock:
            # It may have been uninstalled, and even installed again, while this one waited.
            if self._installed.get(container) is not entry:
                raise RefusedError(error.InvalidContainer(container))
            yield entry

    async def _carry_through(self, operation: Coroutine[Any, Any, None]) -> None:
        await asyncio.shield(self.spawn(operation))

    def spawn(self, operation: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run an operation to its end, whoever waits for it; the shutdown waits too."""
        return _spawn(operation, self._operations)

    def _watch(self, until_exit: Coroutine[Any, Any, None]) -> None:
        _spawn(until_exit, self._exits)


def _spawn(work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]]) -> asyncio.Task[T]:
    # The event loop keeps only weak references to tasks: the set keeps them alive.
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _failed(container: Container, reason: str) -> RefusedError:
    return RefusedError(error.StartContainerFailed(container, reason))


def _missing(container: Container, resource: Name, version: str) -> RefusedError:
    return RefusedError(error.StartContainerMissingResource(container, resource, version))
