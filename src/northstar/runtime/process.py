"""One running container: how it comes to life, and what must go when it is gone.

`start` acquires everything that a start needs, each with its undo on one stack. A start that
fails half-way unwinds it; the end of the container does the same. Nothing else is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import msgspec

from northstar.cgroups import Cgroup, CgroupHost
from northstar.launch import seccomp
from northstar.launch.launcher import Init, Launcher
from northstar.launch.plan import (
    Command,
    HostFacts,
    Places,
    build,
    socket_descriptor,
    tasks_descriptor,
)
from northstar.linux import netns, procfs
from northstar.manifest import Io, Manifest, NamedNetwork, Output, Persist
from northstar.model import Container, ExitStatus, LaunchError, Permissions
from northstar.runtime import debug, listeners, stdio
from northstar.runtime.config import Config
from northstar.runtime.events import Notifications
from northstar.runtime.null import reopen
from northstar.runtime.oom import OomWatch

log = logging.getLogger("northstar.runtime")

_DISCARD: Final = Io(stdout=Output.DISCARD, stderr=Output.DISCARD)
_STOP_ROUNDS: Final = 100
"""Passes to stop a group whose members fork meanwhile; each pass stops all it sees."""


class ConsoleConnection(Protocol):
    """The runtime's side of a container's console connection."""

    def close(self) -> None:
        """Close it; idempotent."""


ConnectConsole = Callable[
    [socket.socket, Container, Permissions], Coroutine[Any, Any, ConsoleConnection]
]
"""Serves a container's console on a connected stream socket, which it takes over."""


class Host(msgspec.Struct, frozen=True):
    """What every start uses.

    Attributes:
        config: the configuration.
        launcher: the C program.
        cgroups: the host's cgroup hierarchies.
        facts: what this machine has.
        null: a null device, see `null`.
        connect_console: serves a container's console.
        notifications: where a container's memory events go.
    """

    config: Config
    launcher: Launcher
    cgroups: CgroupHost
    facts: HostFacts
    null: int
    connect_console: ConnectConsole
    notifications: Notifications


class Process:
    """A started container.

    Attributes:
        container: which.
        pid: of its init, on the host.
        cgroup: where it is.
    """

    def __init__(
        self,
        container: Container,
        init: Init,
        cgroup: Cgroup,
        resources: contextlib.AsyncExitStack,
    ) -> None:
        self.container = container
        self.pid = init.pid
        self.cgroup = cgroup
        self._init = init
        self._resources = resources
        self._started = time.monotonic_ns()

    @property
    def uptime_ns(self) -> int:
        """Nanoseconds since the start."""
        return time.monotonic_ns() - self._started

    async def exited(self) -> ExitStatus:
        """Wait until all processes of the container have ended."""
        return await asyncio.shield(self._init.exited)

    async def release(self) -> None:
        """Let go of all that the container held: cgroup, sockets, console, pipes."""
        await self._resources.aclose()

    async def kill(self, number: int) -> None:
        """Send a signal to the container's whole process group; one that is gone is no error."""
        if self._init.exited.done():
            return
        if number == signal.SIGSTOP:
            await asyncio.to_thread(self._stop)
            return
        # The group exists, and its number is nobody else's, while init is not reaped.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _stop(self) -> None:
        # SIGSTOP from outside stops init as well (pid_namespaces(7)), and a stopped init neither
        # reaps nor reports. So every other member is stopped by itself, until all are seen so.
        for _ in range(_STOP_ROUNDS):
            running = [
                pid
                for pid, state in procfs.process_group(self.pid).items()
                if pid != self.pid and state not in "TZXt"
            ]
            if not running:
                return
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)


async def start(
    host: Host, container: Container, manifest: Manifest, command: Command, places: Places
) -> Process:
    """Start a container whose image and resources are mounted.

    Raises:
        LaunchError, HostError, OSError: it could not be started; nothing of it is left.
    """
    groups: list[int] = []
    if manifest.suppl_groups:
        # getgrnam(3) may ask the network.
        groups = await asyncio.to_thread(_groups, manifest, container)
    plan = build(manifest, command, places, host.facts, groups)
    system_calls = await _seccomp_filter(container, manifest)
    async with contextlib.AsyncExitStack() as stack:
        # Created first, so destroyed last: when nothing uses it any more.
        cgroup = await asyncio.to_thread(
            Cgroup.create, host.cgroups, host.config.cgroup, str(container.name), manifest.cgroups
        )
        stack.push_async_callback(asyncio.to_thread, cgroup.destroy)
        for warning in cgroup.warnings:
            log.warning("%s: %s", container, warning)
        memory = None
        if _wants_oom(manifest):
            memory = await _watch_memory(host, container, cgroup, stack)
        if any(isinstance(mount, Persist) for mount in manifest.mounts.values()):
            await asyncio.to_thread(_make_persist, places.persist, manifest.uid, manifest.gid)

        # Ours only until the launcher has them; init has copies.
        with contextlib.ExitStack() as passed:
            descriptors = await _open_descriptors(host, container, manifest, cgroup, stack, passed)
            if system_calls is not None:
                descriptors["seccomp"] = system_calls.open()
                passed.callback(os.close, descriptors["seccomp"])
            init = host.launcher.launch(
                plan,
                descriptors,
                lambda source: log.warning(
                    "%s: %s does not exist, its bind mount is skipped", container, source
                ),
            )
        try:
            await _bring_up(host, container, init)
            if memory is not None:
                memory.begin()
        except BaseException:
            init.kill()
            await asyncio.shield(init.exited)
            raise
        return Process(container, init, cgroup, stack.pop_all())


def _wants_oom(manifest: Manifest) -> bool:
    memory = manifest.cgroups.memory if manifest.cgroups is not None else None
    return memory is not None and memory.oom_monitor


async def _watch_memory(
    host: Host, container: Container, cgroup: Cgroup, stack: contextlib.AsyncExitStack
) -> OomWatch | None:
    try:
        monitor = await asyncio.to_thread(cgroup.oom_monitor)
    except OSError as failure:
        # No more inotify instances, or a real-time kernel: the container can do without.
        log.warning("%s: its memory is not monitored: %s", container, failure)
        return None
    if monitor is None:
        return None
    watch = OomWatch(container, monitor, host.notifications)
    stack.callback(watch.close)
    return watch


async def _bring_up(host: Host, container: Container, init: Init) -> None:
    await init.ready
    debug.run_commands(host.launcher, host.config.debug_commands, init.pid, container)
    init.go()
    await init.started


async def _open_descriptors(
    host: Host,
    container: Container,
    manifest: Manifest,
    cgroup: Cgroup,
    stack: contextlib.AsyncExitStack,
    passed: contextlib.ExitStack,
) -> dict[str, int]:
    """Open all descriptors of a launch, by their names in the plan.

    What the container has until its end goes onto `stack`, what is only passed on onto `passed`.
    """
    null = reopen(host.null)
    passed.callback(os.close, null)
    opened = {"stdin": null}
    io = manifest.io or _DISCARD
    for name, output in (("stdout", io.stdout), ("stderr", io.stderr)):
        if output is Output.DISCARD:
            opened[name] = null
        else:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            passed.callback(os.close, writer)
            pipe = stdio.open_output(reader, container, name, output)
            stack.callback(pipe.close)
            opened[name] = writer
    if manifest.console is not None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        passed.callback(theirs.close)
        connection = await host.connect_console(ours, container, manifest.console.permissions)
        stack.callback(connection.close)
        opened["console"] = theirs.fileno()
    for name in sorted(manifest.sockets):
        listener = listeners.open_listener(
            host.config.socket_dir, container, name, manifest.sockets[name]
        )
        passed.callback(listener.socket.close)
        stack.callback(listener.unlink)
        opened[socket_descriptor(name)] = listener.socket.fileno()
    if host.facts.into_cgroup:
        directory = cgroup.into_fd()
        assert directory is not None
        passed.callback(os.close, directory)
        opened["cgroup"] = directory
    for number, tasks in enumerate(cgroup.open_tasks()):
        passed.callback(os.close, tasks)
        opened[tasks_descriptor(number)] = tasks
    if isinstance(manifest.network, NamedNetwork):
        descriptor = _open_network(manifest.network.name)
        passed.callback(os.close, descriptor)
        opened["netns"] = descriptor
    return opened


def _open_network(name: str) -> int:
    try:
        return netns.open_named(name)
    except OSError as failure:
        step = f"enter the network namespace {name}"
        raise LaunchError(step, failure.filename or "", failure.errno or 0) from failure


async def _seccomp_filter(container: Container, manifest: Manifest) -> seccomp.Filter | None:
    if manifest.seccomp is None:
        return None
    wanted = manifest.seccomp, manifest.capabilities
    made = seccomp.made_filter(*wanted)
    if made is None:
        made = await asyncio.to_thread(seccomp.filter_for, *wanted)
    for name in made.unknown:
        log.warning("%s: there is no system call %s, it is left out", container, name)
    return made


def _groups(manifest: Manifest, container: Container) -> list[int]:
    numbers = []
    for name in sorted(manifest.suppl_groups):
        try:
            numbers.append(grp.getgrnam(name).gr_gid)
        except KeyError:
            log.warning("%s: this host has no group %s, it is left out", container, name)
    return numbers


def _make_persist(path: str, uid: int, gid: int) -> None:
    """Make the persistent directory of a container: mode 0700, its own user's."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
