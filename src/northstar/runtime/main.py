"""The life of the runtime: from a configuration to `Runtime up and running`, and back to nothing.

Whatever is acquired on the way goes onto one stack, so that an error at any point, as much as an
orderly shutdown, leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from northstar import npk
from northstar.api import notification
from northstar.cgroups import CgroupHost
from northstar.launch.launcher import Launcher
from northstar.launch.plan import HostFacts
from northstar.linux import caps, loop, malloc, mount, selinux
from northstar.manifest import Rlimit, RlimitResource
from northstar.model import (
    ConfigurationError,
    Container,
    HostError,
    NorthstarError,
    Permissions,
)
from northstar.runtime import (
    debug,
    directories,
    inherited,
    leftovers,
    process,
    signals,
    threads,
)
from northstar.runtime.config import Config, RepositoryConfig
from northstar.runtime.console import Console
from northstar.runtime.events import Notifications
from northstar.runtime.null import open_null
from northstar.runtime.repository import FsRepository, MemRepository, Repository
from northstar.runtime.state import State
from northstar.runtime.systemd import Manager

log = logging.getLogger("northstar.runtime")


def run(config: Config, *, mount_namespace: bool = True) -> None:
    """Run until the shutdown is asked for. Needs the main thread, and root.

    Args:
        config: the configuration.
        mount_namespace: enter a mount namespace of our own first, a slave of the host's.

    Raises:
        NorthstarError, OSError: the runtime could not start, or ended for a failure.
    """
    malloc.save_memory()
    check_host()
    rlimits = inherited.reset()
    # Paths go into launch plans, which know no working directory.
    absolute = {name: os.path.realpath(getattr(config, name)) for name in directories.OWN}
    config = msgspec.structs.replace(config, **absolute)
    with contextlib.ExitStack() as stack:
        directories.make(config)
        directories.lock(absolute.items(), stack)
        unmounted = leftovers.unmount(config.run_dir)
        if mount_namespace:
            # Before there is any other thread: unshare(2) is for the calling thread only.
            mount.unshare(mount.CLONE_NEWNS)
            mount.mount("", "/", "", mount.MS_REC | mount.MS_SLAVE, "")
        asyncio.run(_run(config, rlimits, unmounted))


def check_host() -> None:
    """Refuse a machine on which no container could ever start.

    Raises:
        HostError: with what is missing.
    """
    if os.geteuid() != 0:
        raise HostError("the runtime must be run as root", hint="run it with sudo")
    if not os.path.exists(loop.CONTROL):
        raise HostError(
            f"{loop.CONTROL} does not exist, so no image can be mounted",
            hint="load the kernel module: modprobe loop",
        )


async def _run(
    config: Config, rlimits: Mapping[RlimitResource, Rlimit], unmounted: Sequence[str]
) -> None:
    asyncio.get_running_loop().set_default_executor(threads.start())
    runtime = Runtime(config, rlimits, unmounted)
    async with contextlib.AsyncExitStack() as stack:
        await runtime.open(stack)
        await runtime.serve()


class Runtime:
    """One run of the runtime."""

    def __init__(
        self,
        config: Config,
        rlimits: Mapping[RlimitResource, Rlimit],
        unmounted: Sequence[str],
    ) -> None:
        """Run with `config`, whose own directories are absolute, there, and locked.

        Args:
            config: the configuration.
            rlimits: limits of ours that are not the payloads'.
            unmounted: what `leftovers.unmount` has found.
        """
        self._config = config
        self._rlimits = rlimits
        self._unmounted = unmounted
        self._notifications = Notifications(config.notification_buffer_size)
        self._manager = Manager()
        self._stop = asyncio.Event()
        self._state: State
        self._console: Console

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Make everything ready; `stack` takes it all back.

        Raises:
            NorthstarError, OSError: something could not be had.
        """
        stack.enter_context(signals.taken(asyncio.get_running_loop(), self._stop.set))
        config = self._config
        for warning in config.warnings:
            log.warning("%s", warning)
        repositories = [_repository(i, c) for i, c in config.repositories.items()]
        stored = [(f"dir of repositories.{i}", c.dir) for i, c in config.repositories.items()]
        directories.lock([(key, path) for key, path in stored if path is not None], stack)
        cgroups = CgroupHost.detect()
        for warning in directories.claim_cgroup(cgroups, config.cgroup, stack):
            log.warning("%s", warning)
        log.info("cgroups: %s", cgroups.description)
        leftovers.remove(config, cgroups, self._unmounted)
        launcher = Launcher.load()
        stack.callback(launcher.close)
        stack.push_async_callback(debug.end_all)
        null = open_null(config.run_dir)
        stack.callback(os.close, null)
        versions = [hierarchy.version for hierarchy in cgroups.hierarchies]
        facts = HostFacts(
            capabilities=caps.read().permitted,
            into_cgroup=2 in versions,
            joins=versions.count(1),
            selinux=selinux.enabled(),
            rlimits=self._rlimits,
        )
        host = process.Host(
            config, launcher, cgroups, facts, null, self._connect, self._notifications
        )
        self._state = State(config, host, self._notifications, self._stop.set)
        stack.callback(self._state.close)
        self._console = Console(self._state, self._notifications)
        stack.push_async_callback(self._console.close)

        if config.console is not None:
            await self._console.listen(config.console)
        await self._state.load(repositories)

    async def _connect(
        self, sock: socket.socket, container: Container, permissions: Permissions
    ) -> process.ConsoleConnection:
        return await self._console.adopt(sock, container, permissions, self._config.console_options)

    async def serve(self) -> None:
        """Boot, answer requests until the shutdown, and shut down.

        Raises:
            RefusedError: a critical container failed.
        """
        failure: Exception | None = None
        try:
            if not self._stop.is_set():
                await self._until_stop(self._state.boot())
            if not self._stop.is_set():
                self._console.run()
                log.info("Runtime up and running")
                self._manager.ready()
                await self._until_stop(self._state.wait_failed())
        except Exception as error:
            # Even one of our own: containers get their SIGTERM, and what is mounted is unmounted.
            failure = error
        self._manager.stopping()
        self._console.stop_listening()
        self._notifications.publish(notification.Shutdown())
        held = await self._state.stop(self._config.shutdown_timeout)
        await self._console.close()
        self._manager.close()
        if failure is not None:
            raise failure
        if held:
            raise HostError(
                f"{', '.join(map(str, held))} could not be ended: the kernel holds its processes",
                hint="look for a frozen cgroup, or a file system that does not answer",
            )
        log.info("Shutdown complete")

    async def _until_stop(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` until it is done, or until the shutdown is asked for."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
        if task.done():
            task.result()


def _repository(identifier: str, config: RepositoryConfig) -> Repository:
    key = None
    if config.key is not None:
        try:
            key = npk.load_public_key(config.key)
        except NorthstarError as failure:
            raise ConfigurationError(
                f"repositories.{identifier}.key: {failure.message}",
                hint=failure.hint or "name the .pub file that `sextant gen-key` made",
            ) from failure
    if config.dir is None:
        return MemRepository(identifier, config, key)
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
    return FsRepository(identifier, config, key, config.dir)
