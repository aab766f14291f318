"""Start, service and shutdown of the runtime.

All acquired resources are released by one stack, so neither an error at any point nor an orderly
shutdown leaves anything behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from northstar import npk
from northstar.api import notification
from northstar.cgroups import CgroupHost
from northstar.launch.launcher import Launcher
from northstar.launch.plan import HostFacts
from northstar.linux import caps, loop, open_tree, openat2, selinuxfs
from northstar.manifest import Rlimit, RlimitResource
from northstar.model import (
    ConfigurationError,
    Container,
    HostError,
    NorthstarError,
    Permission,
    Permissions,
)
from northstar.runtime import (
    container_modules,
    data_wipe,
    debug,
    directories,
    inherited,
    lifecycle,
    logs,
    malloc_settings,
    signals,
    stale_state,
    threads,
    writer,
)
from northstar.runtime.bells import Bells
from northstar.runtime.config import Config, RepositoryConfig, TcpAddress
from northstar.runtime.console import Console
from northstar.runtime.executor import Executor
from northstar.runtime.key_lists import KeyLists, load_anchor
from northstar.runtime.log_store import LogStore
from northstar.runtime.mount_namespace import enter_mount_namespace
from northstar.runtime.notifications import Notifications
from northstar.runtime.null_device import open_null
from northstar.runtime.operations import ContainerOperations
from northstar.runtime.repository import FsRepository, Keys, MemRepository, Repository
from northstar.runtime.running import ConsoleConnection
from northstar.runtime.start import StartContext
from northstar.runtime.state_store import StateStore
from northstar.runtime.systemd import Manager
from northstar.runtime.update import Updates

if TYPE_CHECKING:
    from northstar.model.notify import NotifyMessage

log = logging.getLogger("northstar.runtime")

_THREADS_TIMEOUT: Final = 1.0
"""Seconds that the shutdown waits for busy threads."""

_LOGS_TIMEOUT: Final = 1.0
"""Seconds that clients have to read the rest of the logs that they follow."""


def run(config: Config, *, mount_namespace: bool = True) -> None:
    """Run until a shutdown is requested. Needs the main thread, and root.

    Args:
        config: the configuration.
        mount_namespace: enter a new mount namespace first, a slave of the host's.

    Raises:
        NorthstarError, OSError: the runtime could not start, or ended because of a failure.
    """
    malloc_settings.save_memory()
    check_host()
    rlimits = inherited.reset()
    # Launch plans contain these paths, and init has a different working directory.
    absolute = {name: os.path.realpath(getattr(config, name)) for name in directories.OWN}
    config = msgspec.structs.replace(config, **absolute)
    with contextlib.ExitStack() as stack:
        own = directories.own(config, stack)
        unmounted = stale_state.unmount(config.run_dir)
        if mount_namespace:
            enter_mount_namespace()
        # Nothing uses the default executor: at its end asyncio would wait for it without a limit,
        # in one more thread, which the kernel may refuse.
        asyncio.run(_run(config, own, rlimits, unmounted, mount_namespace))


def check_host() -> None:
    """Refuse a host on which no container can start.

    Raises:
        HostError: names what is missing.
    """
    if os.geteuid() != 0:
        raise HostError("the runtime must be run as root", hint="run it with sudo")
    if not os.path.exists(loop.CONTROL):
        raise HostError(
            f"{loop.CONTROL} does not exist, so no image can be mounted",
            hint="load the kernel module: modprobe loop",
        )


async def _run(
    config: Config,
    own: directories.RuntimeDirectories,
    rlimits: Mapping[RlimitResource, Rlimit],
    unmounted: Sequence[str],
    mount_namespace: bool,
) -> None:
    stored = config.repositories.items()
    pools = threads.Pools.start(
        [identifier for identifier, repository in stored if repository.dir is not None],
        [identifier for identifier, repository in stored if repository.dir is None],
    )
    runtime = Runtime(config, own, pools, rlimits, unmounted, mount_namespace)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(writer.shared(2).deferred(asyncio.get_running_loop().call_later))
        await runtime.open(stack)
        await runtime.serve()


class Runtime:
    """One run of the runtime."""

    def __init__(
        self,
        config: Config,
        own: directories.RuntimeDirectories,
        pools: threads.Pools,
        rlimits: Mapping[RlimitResource, Rlimit],
        unmounted: Sequence[str],
        mount_namespace: bool,
    ) -> None:
        """Run with `config`.

        Args:
            config: the configuration; the runtime's directories are absolute paths.
            own: these directories, locked.
            pools: for blocking calls; `serve` ends them.
            rlimits: the former values of limits that the runtime has raised, for payloads.
            unmounted: the result of `stale_state.unmount`.
            mount_namespace: the process is in a mount namespace of its own.
        """
        self._config = config
        self._own = own
        self._pools = pools
        self._stored: dict[str, directories.LockedDirectory] = {}
        self._rlimits = rlimits
        self._unmounted = unmounted
        self._mount_namespace = mount_namespace
        self._notifications = Notifications(config.notification_buffer_size)
        self._manager = Manager()
        self._stop = asyncio.Event()
        self._give_up = threading.Event()
        self._executor: Executor
        self._console: Console

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Acquire all resources; `stack` releases them.

        Raises:
            NorthstarError, OSError: a resource could not be acquired.
        """
        stack.enter_context(signals.handled(asyncio.get_running_loop(), self._stop.set))
        config = self._config
        with logs.first_few(logging.WARNING, "%d more warnings about the configuration") as warn:
            for warning in config.warnings:
                warn("%s", warning)
        repositories = {
            identifier: _repository(identifier, repository, self._pools)
            for identifier, repository in config.repositories.items()
        }
        anchors = {
            identifier: load_anchor(repository.keys, f"repositories.{identifier}.keys")
            for identifier, repository in config.repositories.items()
            if repository.keys is not None
        }
        self._stored = {
            identifier: directories.LockedDirectory(
                f"dir of repositories.{identifier}", repository.dir
            )
            for identifier, repository in config.repositories.items()
            if repository.dir is not None
        }
        directories.lock(self._stored.values(), stack)
        cgroups = CgroupHost.detect()
        claimed = directories.claim_cgroup(cgroups, config.cgroup, stack)
        for warning in claimed.warnings:
            log.warning("%s", warning)
        log.info("cgroups: %s", cgroups.description)
        stale_state.remove(config, cgroups, self._unmounted)
        await stack.enter_async_context(
            data_wipe.finishing(config.data_dir, self._pools.wipes, self._give_up)
        )
        launcher = Launcher.load(self._pools.kernel)
        stack.callback(launcher.close)
        stack.push_async_callback(debug.end_all)
        null = open_null(config.run_dir)
        stack.callback(os.close, null)
        attach = open_tree.supported()
        await launcher.serve(own_namespace=attach and self._mount_namespace)
        versions = [hierarchy.version for hierarchy in cgroups.hierarchies]
        facts = HostFacts(
            capabilities=caps.read().permitted,
            into_cgroup=2 in versions,
            joins=versions.count(1),
            selinux=selinuxfs.enabled(),
            attach=attach,
            in_root=openat2.supported(),
            rlimits=self._rlimits,
        )
        kept = LogStore(config.logs_kept)
        bells = stack.enter_context(Bells())
        context = StartContext(
            config=config,
            own=self._own,
            pools=self._pools,
            launcher=launcher,
            cgroups=cgroups,
            cgroup_directories=claimed.directories,
            facts=facts,
            null=null,
            connect_console=self._connect,
            notifications=self._notifications,
            notified=self._notified,
            bells=bells,
            on_log_ended=kept.end,
        )
        for repository in repositories.values():
            stack.callback(repository.close)
        store = StateStore(self._own.data_dir, self._pools.data)
        await store.load()
        self._executor = Executor(
            context,
            repositories,
            self._notifications,
            self._give_up,
            kept,
            store.state.floor_versions(),
        )
        key_lists = KeyLists(repositories, anchors, store)
        key_lists.load()
        updates = Updates(self._executor, context, repositories, store, self._give_up)
        operations = ContainerOperations(
            self._executor, repositories, key_lists, updates, self._stop.set
        )
        self._console = Console(operations, self._notifications)
        stack.push_async_callback(self._console.close)

        if config.console is not None:
            bound = await self._console.listen(config.console, self._pools.data.run)
            if isinstance(bound, TcpAddress):
                _warn_about_tcp(bound, config.console.permissions)
        await lifecycle.load(self._executor, repositories, store)

    async def _connect(
        self, sock: socket.socket, container: Container, permissions: Permissions
    ) -> ConsoleConnection:
        return await self._console.adopt(sock, container, permissions, self._config.console_options)

    def _notified(self, container: Container, message: NotifyMessage) -> None:
        self._executor.notified(container, message)

    async def serve(self) -> None:
        """Boot, answer requests until the shutdown, and shut down.

        Raises:
            RefusedError: a critical container failed.
        """
        failure: Exception | None = None
        try:
            if not self._stop.is_set():
                await self._until_stop(lifecycle.boot(self._executor))
            if not self._stop.is_set():
                self._console.run()
                log.info("Runtime up and running")
                self._manager.ready()
                await self._until_stop(self._load_modules_and_wait())
        except Exception as error:
            # After a bug too, containers get their SIGTERM and images are unmounted.
            failure = error
        self._manager.stopping()
        self._console.stop_listening()
        self._notifications.publish(notification.Shutdown())
        stuck = await lifecycle.shut_down(
            self._executor, self._config.shutdown_timeout, self._config.longest_shutdown
        )
        await self._executor.logs.close(_LOGS_TIMEOUT)
        await self._console.close()
        self._manager.close()
        stalled = self._end_threads()
        if failure is not None:
            raise failure
        if stuck:
            raise HostError(
                f"{', '.join(map(str, stuck))} could not be ended: the kernel holds its processes",
                hint="look for a frozen cgroup, or a file system that does not answer",
            )
        if stalled:
            raise HostError(
                f"the kernel holds threads of the runtime that wait for {', '.join(stalled)}",
                hint="look at that file system and its device: this process ends when it answers",
            )
        log.info("Shutdown complete")

    async def _load_modules_and_wait(self) -> None:
        try:
            await container_modules.load()
        except Exception as failure:
            log.warning("A module of the runtime cannot be imported: %s", failure)
        await self._stop.wait()

    def _end_threads(self) -> list[str]:
        """End all threads; return the names of pools with threads that block in the kernel."""
        stalled = [
            *self._pools.stop(_THREADS_TIMEOUT),
            *self._executor.end_probe_threads(_THREADS_TIMEOUT),
        ]
        for pool in stalled:
            log.error("The threads for %s cannot be ended: the kernel holds them", pool.name)
        for identifier, directory in self._stored.items():
            if self._pools.storage[identifier] in stalled:
                # Such a thread may still change the directory, which the next runtime must not use.
                directory.keep()
        return [pool.name for pool in stalled]

    async def _until_stop(self, work: Coroutine[Any, Any, None] | None = None) -> None:
        """Wait until `work` is done, or the shutdown is requested.

        Raises:
            RefusedError: a critical container has failed.
        """
        stop = asyncio.create_task(self._stop.wait())
        tasks = [stop] if work is None else [stop, asyncio.create_task(work)]
        failed = self._executor.failed
        try:
            await asyncio.wait((failed, *tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        for ended in (failed, *tasks):
            if ended.done():
                ended.result()


def _warn_about_tcp(bound: TcpAddress, permissions: Permissions) -> None:
    """Warn if anybody may control the runtime: TCP does not say who connects."""
    if permissions <= {Permission.IDENT}:
        return
    # Not the module ipaddress, which takes 4 ms to import: the kernel has written the address.
    local = bound.host == "::1" or bound.host.startswith(("127.", "::ffff:127."))
    log.warning(
        "Every user of %s may control this runtime, since its console is %s: use a Unix socket, "
        'bind = "unix:///run/northstar/console"',
        "this machine" if local else "this machine and of its network",
        bound,
    )


def _repository(identifier: str, config: RepositoryConfig, pools: threads.Pools) -> Repository:
    keys = None
    if config.key is not None:
        try:
            key = npk.load_public_key(config.key)
            keys = Keys((key,), (key,))
        except NorthstarError as failure:
            raise ConfigurationError(
                f"repositories.{identifier}.key: {failure.message}",
                hint=failure.hint or "name the .pub file that `sextant gen-key` made",
            ) from failure
    storage, mounts = pools.storage[identifier], pools.mounts[identifier]
    if config.dir is None:
        return MemRepository(identifier, config, keys, storage, mounts)
    try:
        os.scandir(config.dir).close()
    except FileNotFoundError:
        raise ConfigurationError(
            f"repositories.{identifier}: the directory {config.dir} does not exist",
            hint="make it, or correct `dir`",
        ) from None
    except OSError as failure:
        raise ConfigurationError(
            f"repositories.{identifier}: the directory {config.dir} cannot be read: "
            f"{failure.strerror}",
            hint="repair or mount its file system, or correct `dir`",
        ) from failure
    return FsRepository(identifier, config, keys, storage, mounts, config.dir)
