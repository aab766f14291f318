"""One running container: how it comes to life, and what must go when it is gone.

`start` acquires everything that a start needs, each with its undo on one stack. A start that
fails half-way unwinds it; the end of the container does the same. Nothing else is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
    HostFacts,
    Places,
    build,
    socket_descriptor,
    tasks_descriptor,
)
from northstar.linux import mountinfo, netns, pidfd, procfs
from northstar.manifest import Capability, Command, Io, Manifest, NamedNetwork, Output, Persist
from northstar.model import Container, ExitStatus, LaunchError, Permissions
from northstar.runtime import debug, listeners, stdio
from northstar.runtime.config import Config
from northstar.runtime.directories import Held, Own
from northstar.runtime.events import Notifications
from northstar.runtime.null import reopen
from northstar.runtime.oom_watch import OomWatch
from northstar.runtime.threads import Pools

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
        own: the runtime's own directories.
        pools: for what blocks.
        launcher: the C program.
        cgroups: the host's cgroup hierarchies.
        cgroup_directories: the runtime's own cgroup in each of them.
        facts: what this machine has.
        null: a null device, see `null`.
        connect_console: serves a container's console.
        notifications: where a container's memory events go.
    """

    config: Config
    own: Own
    pools: Pools
    launcher: Launcher
    cgroups: CgroupHost
    cgroup_directories: tuple[Held, ...]
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
        pools: Pools,
        resources: contextlib.AsyncExitStack,
    ) -> None:
        self.container = container
        self.pid = init.pid
        self.cgroup = cgroup
        self._init = init
        self._pools = pools
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
            init = self._init.duplicate_pidfd()
            try:
                stopping = asyncio.get_running_loop().run_in_executor(
                    self._pools.other, stop_members, self.pid, init
                )
            except BaseException:
                os.close(init)
                raise
            # The thread goes on if nobody waits any more.
            stopping.add_done_callback(lambda _: os.close(init))
            await asyncio.shield(stopping)
            return
        # The group exists, and its number is nobody else's, while init is not reaped.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def stop_members(group: int, init: int) -> None:
    """Send SIGSTOP to all of a container's process group but its init. Blocks for a while.

    SIGSTOP from outside stops init as well (pid_namespaces(7)), and a stopped init neither reaps
    nor reports. So every other member is stopped by itself, until all are seen so.

    Args:
        group: the process group, whose number is init's pid.
        init: a pidfd of init.
    """
    for _ in range(_STOP_ROUNDS):
        running = [
            pid
            for pid, state in procfs.process_group(group).items()
            if pid != group and state not in "TZXt"
        ]
        if not running:
            return
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                _stop_member(pid, group, init)


def _stop_member(pid: int, group: int, init: int) -> None:
    """Stop a process if it is in the group now, and the group is the container's.

    The number may be another process's by now: so the process is held, and asked for its group
    after that. The group's number may be another group's once init is reaped: so init is looked at
    last. If it is not reaped then, it was not before.

    Raises:
        ProcessLookupError: the process is gone, or init.
    """
    held = pidfd.open(pid)
    try:
        if procfs.group_of(pid) == group:
            pidfd.send_signal(init, 0)
            pidfd.send_signal(held, signal.SIGSTOP)
    finally:
        os.close(held)


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
        groups = await host.pools.names.run(_groups, manifest, container)
    plan = build(manifest, command, places, host.facts, groups)
    _warn_of_getfd(container, manifest)
    system_calls = await _seccomp_filter(host, container, manifest)
    async with contextlib.AsyncExitStack() as stack:
        # Created first, so destroyed last: when nothing uses it any more.
        cgroup = await host.pools.cgroups.run(_make_cgroup, host, container, manifest)
        stack.push_async_callback(host.pools.cgroups.run, cgroup.destroy)
        for warning in cgroup.warnings:
            log.warning("%s: %s", container, warning)
        memory = None
        if _wants_oom(manifest):
            memory = await _watch_memory(host, container, cgroup, stack)
        if any(isinstance(mount, Persist) for mount in manifest.mounts.values()):
            await host.pools.data.run(
                _make_persist, host.own.data_dir, places.persist, manifest.uid, manifest.gid
            )
        # A socket of its own, or all of them as a mount: what is in there is made by the runtime.
        host.own.socket_dir.restore()

        # Ours only until the launcher has them; init has copies.
        with contextlib.ExitStack() as passed:
            descriptors = _open_descriptors(host, container, manifest, cgroup, stack, passed)
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
            await _bring_up(host, container, manifest, init, stack)
            if memory is not None:
                memory.begin()
        except BaseException:
            init.kill()
            await asyncio.shield(init.exited)
            raise
        return Process(container, init, cgroup, host.pools, stack.pop_all())


def _make_cgroup(host: Host, container: Container, manifest: Manifest) -> Cgroup:
    for directory in host.cgroup_directories:
        directory.restore()
    return Cgroup.create(host.cgroups, host.config.cgroup, str(container.name), manifest.cgroups)


def _wants_oom(manifest: Manifest) -> bool:
    memory = manifest.cgroups.memory if manifest.cgroups is not None else None
    return memory is not None and memory.oom_monitor


async def _watch_memory(
    host: Host, container: Container, cgroup: Cgroup, stack: contextlib.AsyncExitStack
) -> OomWatch | None:
    try:
        monitor = await host.pools.cgroups.run(cgroup.oom_monitor)
    except OSError as failure:
        # No more inotify instances, or a real-time kernel: the container can do without.
        log.warning("%s: its memory is not monitored: %s", container, failure)
        return None
    if monitor is None:
        return None
    watch = OomWatch(container, monitor, host.notifications)
    stack.callback(watch.close)
    return watch


async def _bring_up(
    host: Host,
    container: Container,
    manifest: Manifest,
    init: Init,
    stack: contextlib.AsyncExitStack,
) -> None:
    await init.ready
    if manifest.console is not None:
        permissions = manifest.console.permissions
        connection = await host.connect_console(init.take_console(), container, permissions)
        stack.callback(connection.close)
    debug.run_commands(host.config.debug_commands, init.pid, container)
    init.go()
    await init.started


def _open_descriptors(
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
        opened["console"] = null  # its place: init makes the console, see Init.take_console
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
        path = failure.filename or ""
        hint = None
        if failure.errno == errno.EINVAL:
            with contextlib.suppress(OSError):
                hint = _why_no_network(name, path)
        raise LaunchError(step, path, failure.errno or 0, hint=hint) from failure


def _why_no_network(name: str, path: str) -> str:
    """Return why a file may be no network namespace for the runtime, and the next step.

    The file is an ordinary one, on which ip-netns(8) mounts the namespace. If that happens in the
    host's mount namespace it reaches the runtime's own only by propagation, from a shared mount.
    """
    on = mountinfo.containing(path)
    if on is None or any(field.startswith(("shared:", "master:")) for field in on.fields):
        return f"no namespace is mounted on this file: ip netns add {name}"
    return (
        "no namespace is mounted on this file as the runtime sees it, and it sees no mount that "
        f"the host makes after the start of the runtime, since {on.mount_point} is private: "
        f"restart the runtime, or run `mount --make-shared {on.mount_point}` before its start"
    )


async def _seccomp_filter(
    host: Host, container: Container, manifest: Manifest
) -> seccomp.Filter | None:
    if manifest.seccomp is None:
        return None
    wanted = manifest.seccomp, manifest.capabilities
    made = seccomp.made_filter(*wanted)
    if made is None:
        made = await host.pools.other.run(seccomp.filter_for, *wanted)
    for name in made.unknown:
        log.warning("%s: there is no system call %s, it is left out", container, name)
    return made


def _warn_of_getfd(container: Container, manifest: Manifest) -> None:
    allowed = manifest.seccomp.allow if manifest.seccomp is not None else None
    if Capability.CAP_SYS_PTRACE in manifest.capabilities and "pidfd_getfd" in (allowed or ()):
        log.warning(
            "%s: pidfd_getfd is refused (EPERM) although seccomp.allow has it: with CAP_SYS_PTRACE "
            "it would open the host's files",
            container,
        )


def _groups(manifest: Manifest, container: Container) -> list[int]:
    numbers = []
    for name in sorted(manifest.suppl_groups):
        try:
            number = grp.getgrnam(name).gr_gid
        except KeyError:
            log.warning("%s: this host has no group %s, it is left out", container, name)
            continue
        if number == 0:
            # What `gid: 0` would give, which no manifest may have: the host's files of that group.
            raise LaunchError(
                f"give the container the supplementary group {name}",
                reason="on this host its id is 0, root's group, which no container gets",
                hint="remove it from suppl_groups in the manifest",
            )
        numbers.append(number)
    return numbers


def _make_persist(data_dir: Held, path: str, uid: int, gid: int) -> None:
    """Make the persistent directory of a container: mode 0700, its own user's."""
    data_dir.restore()
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
