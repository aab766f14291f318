"""Starts a container whose images are mounted.

A start stores every resource that it acquires in one `HeldResources`. A failed start releases it,
and so does the end of the container.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import grp
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING

import msgspec

from northstar.launch import seccomp
from northstar.launch.launcher import Init, Launcher
from northstar.launch.plan import (
    ContainerPaths,
    HostFacts,
    build,
    logged_streams,
    socket_descriptor,
)
from northstar.manifest import Capability, Command, Manifest, Persist
from northstar.manifest.bounds import LOG_SIZE
from northstar.model import Container, LaunchError, Permissions, listed, sentence
from northstar.runtime import debug, listeners, logs, stdio
from northstar.runtime.bells import Bells
from northstar.runtime.config import Config
from northstar.runtime.descriptors import opened
from northstar.runtime.directories import LockedDirectory, RuntimeDirectories
from northstar.runtime.logring import EndedRun, LogRing
from northstar.runtime.notifications import Notifications
from northstar.runtime.oom_watch import OomWatch
from northstar.runtime.running import ConsoleConnection, HeldResources, RunningContainer
from northstar.runtime.threads import Pools

if TYPE_CHECKING:
    from northstar.cgroups import Cgroup, CgroupHost
    from northstar.model.notify import NotifyMessage
    from northstar.runtime.notify import NotifySocket

log = logging.getLogger("northstar.runtime")

ConnectConsole = Callable[
    [socket.socket, Container, Permissions], Coroutine[None, None, ConsoleConnection]
]
"""Serves a container's console on a connected stream socket, and takes ownership of the socket."""


class StartContext(msgspec.Struct, frozen=True):
    """What every start uses.

    Attributes:
        config: the configuration.
        own: the runtime's directories.
        pools: for blocking calls.
        launcher: spawns the C program.
        cgroups: the host's cgroup hierarchies.
        cgroup_directories: the runtime's cgroup in each of them.
        facts: capabilities and features of this host.
        null: a descriptor of the null device, see `null_device`.
        connect_console: serves a container's console.
        notifications: receives the containers' memory events.
        notified: called with each message on a container's notify socket after its execve(2).
        bells: waits for output of containers.
        on_log_ended: called with the output that is left of each run, after its end.
    """

    config: Config
    own: RuntimeDirectories
    pools: Pools
    launcher: Launcher
    cgroups: CgroupHost
    cgroup_directories: tuple[LockedDirectory, ...]
    facts: HostFacts
    null: int
    connect_console: ConnectConsole
    notifications: Notifications
    notified: Callable[[Container, NotifyMessage], None]
    bells: Bells
    on_log_ended: Callable[[EndedRun], None] | None = None


async def start(
    context: StartContext, manifest: Manifest, command: Command, paths: ContainerPaths, run: int
) -> RunningContainer:
    """Start a container whose image and resources are mounted.

    Args:
        context: what every start uses.
        manifest: the container's manifest.
        command: the command to execute.
        paths: the container's host paths.
        run: number of the run, from 1.

    Raises:
        LaunchError, HostError, OSError: it could not be started; nothing is left behind.
    """
    container = manifest.container
    groups = await groups_of(context, manifest)
    plan = build(manifest, command, paths, context.facts, groups)
    _warn_of_getfd(manifest)
    system_calls = await _seccomp_filter(context, manifest)
    held = HeldResources(container, paths.images, groups=groups)
    held.on_log_ended = context.on_log_ended
    try:
        if logged_streams(manifest):
            held.log = LogRing(container, run, _log_size(manifest), context.bells)
        await _prepare(context, manifest, paths, held)
        assert held.cgroup is not None
        with opened(
            plan,
            manifest,
            held.cgroup,
            system_calls,
            context.null,
            held,
        ) as descriptors:
            skipped: list[str] = []
            init = context.launcher.launch(plan, descriptors, skipped.append)
        try:
            await _bring_up(context, manifest, init, held)
        finally:
            reason = "does not exist, its bind mount is skipped"
            _warn(container, "missing bind sources", [f"{s} {reason}" for s in skipped])
    except BaseException:
        await held.release(context.pools)
        raise
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s (%d) holds: %s", container, init.pid, held.describe())
    return RunningContainer(container, init, held, context.pools)


async def groups_of(context: StartContext, manifest: Manifest) -> list[int]:
    """Return the ids of the supplementary groups.

    Raises:
        LaunchError: one is root's.
    """
    if not manifest.suppl_groups:
        return []
    # getgrnam(3) may wait for a network service.
    return await context.pools.data.run(_groups, manifest)


async def _prepare(
    context: StartContext, manifest: Manifest, paths: ContainerPaths, held: HeldResources
) -> None:
    """Create what the launch needs: cgroup, persistent directory, socket directory."""
    pools, container = context.pools, manifest.container
    held.cgroup = await pools.kernel.run(_make_cgroup, context, manifest)
    _warn(container, "the cgroup", held.cgroup.warnings)
    if _monitors_oom(manifest):
        held.memory = await _watch_memory(context, container, held.cgroup)
    if any(isinstance(mount, Persist) for mount in manifest.mounts.values()):
        await pools.data.run(
            _make_persist, context.own.data_dir, paths.persist, manifest.uid, manifest.gid
        )
    # The container declares sockets, or mounts this directory: in both cases it must exist.
    context.own.socket_dir.restore()
    if manifest.service is not None and manifest.service.notify is not None:
        held.notify = _bind_notify(context, manifest)


def _log_size(manifest: Manifest) -> int:
    service = manifest.service
    return LOG_SIZE if service is None or service.log is None else service.log.size


def _bind_notify(context: StartContext, manifest: Manifest) -> NotifySocket:
    from northstar.runtime import notify  # few containers need it

    context.own.run_dir.restore()
    label = None
    if context.facts.selinux and manifest.selinux is not None:
        # The image is mounted with it, so a policy that allows the image's files allows these.
        label = manifest.selinux.mount_context
    return notify.bind(context.own.run_dir.path, manifest.container, label)


def _warn(container: Container, what: str, warnings: Sequence[str]) -> None:
    more = "%d more warnings about %s of %s"
    with logs.first_few(logging.WARNING, more, what, container) as warn:
        for warning in warnings:
            warn("%s: %s", container, warning)


def _make_cgroup(context: StartContext, manifest: Manifest) -> Cgroup:
    from northstar.cgroups import Cgroup

    def restore() -> None:
        for directory in context.cgroup_directories:
            directory.restore()

    # Another runtime that uses the cgroup after a removal uses it in all hierarchies: check one.
    # Each stat(2) in a thread may wait for the interpreter's lock.
    if context.cgroup_directories[0].restore():
        restore()
    return Cgroup.create(
        context.cgroups, context.config.cgroup, str(manifest.name), manifest.cgroups, restore
    )


def _monitors_oom(manifest: Manifest) -> bool:
    memory = manifest.cgroups.memory if manifest.cgroups is not None else None
    return memory is not None and memory.oom_monitor


async def _watch_memory(
    context: StartContext, container: Container, cgroup: Cgroup
) -> OomWatch | None:
    try:
        monitor = await context.pools.kernel.run(cgroup.oom_monitor)
    except OSError as failure:
        # No more inotify instances, or a real-time kernel: start without the monitor.
        log.warning("%s: its memory is not monitored: %s", container, sentence(failure))
        return None
    return None if monitor is None else OomWatch(container, monitor, context.notifications)


async def _bring_up(
    context: StartContext, manifest: Manifest, init: Init, held: HeldResources
) -> None:
    """Start the payload of a cloned init, up to its execve(2); kill init on a failure."""
    try:
        await init.ready
        if held.log is not None:
            held.log.open()
            assert manifest.io is not None
            held.output = stdio.open_output(held.log, manifest.io)
        if manifest.console is not None:
            permissions = manifest.console.permissions
            if manifest.service is not None:
                permissions |= manifest.service.permissions
            held.console = await context.connect_console(
                init.take_socket("console"), manifest.container, permissions
            )
        _bind_sockets(context, manifest, init, held)
        debug.run_commands(
            context.launcher, context.config.debug_commands, init.pid, manifest.container
        )
        init.go()
        await init.started
        if held.memory is not None:
            held.memory.begin()
        if held.notify is not None:
            # Earlier messages wait in its queue.
            held.notify.begin(functools.partial(context.notified, manifest.container))
    except BaseException:
        init.kill()
        await asyncio.shield(init.exited)
        raise


def _bind_sockets(
    context: StartContext, manifest: Manifest, init: Init, held: HeldResources
) -> None:
    directory = context.config.socket_dir
    for name, config in sorted(manifest.sockets.items()):
        with init.take_socket(socket_descriptor(name)) as made:
            bound = listeners.bind(made, directory, manifest.container, name, config)
        held.sockets.append(bound)


async def seccomp_filter(context: StartContext, manifest: Manifest) -> seccomp.Filter | None:
    """Return the filter of a manifest, which is made once; None if it has none."""
    if manifest.seccomp is None:
        return None
    key = manifest.seccomp, manifest.capabilities
    found = seccomp.made_filter(*key)
    if found is None:
        found = await context.pools.kernel.run(seccomp.filter_for, *key)
    return found


async def _seccomp_filter(context: StartContext, manifest: Manifest) -> seccomp.Filter | None:
    found = await seccomp_filter(context, manifest)
    if found is not None and found.unknown:
        what = "system call %s, it is" if len(found.unknown) == 1 else "system calls %s, they are"
        log.warning(f"%s: there is no {what} left out", manifest.container, listed(found.unknown))
    return found


def _warn_of_getfd(manifest: Manifest) -> None:
    allowed = manifest.seccomp.allow if manifest.seccomp is not None else None
    if Capability.CAP_SYS_PTRACE in manifest.capabilities and "pidfd_getfd" in (allowed or ()):
        log.warning(
            "%s: pidfd_getfd is refused (EPERM) although seccomp.allow has it: with CAP_SYS_PTRACE "
            "it would open the host's files",
            manifest.container,
        )


def _groups(manifest: Manifest) -> list[int]:
    numbers, missing = [], []
    for name in sorted(manifest.suppl_groups):
        try:
            number = grp.getgrnam(name).gr_gid
        except KeyError:
            missing.append(name)
            continue
        if number == 0:
            # It gives access to the host's files of group 0, like `gid: 0`, which is refused too.
            raise LaunchError(
                f"give the container the supplementary group {name}",
                reason="on this host its id is 0, root's group, which no container gets",
                hint="remove it from suppl_groups in the manifest",
            )
        numbers.append(number)
    if missing:
        what = "group %s, it is" if len(missing) == 1 else "groups %s, they are"
        log.warning(f"%s: this host has no {what} left out", manifest.container, listed(missing))
    return numbers


def _make_persist(data_dir: LockedDirectory, path: str, uid: int, gid: int) -> None:
    """Create the persistent directory of a container: mode 0700, owned by its user."""
    data_dir.restore()
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
