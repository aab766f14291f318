"""Gives events to the core, and executes the actions that it decides.

Actions that cannot block are executed at once, all others by threads or in separate tasks, which
continue when the client disconnects. Each action reports its result as an event. Everything in this
module runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from northstar import core
from northstar.api import RefusedError, notification
from northstar.core import actions, events
from northstar.core.events import Event, Request
from northstar.devices import image_mount, loop_device
from northstar.launch.plan import ContainerPaths
from northstar.manifest import Resource
from northstar.model import (
    Container,
    ExitStatus,
    Name,
    NorthstarError,
    Signalled,
    Version,
    sentence,
)
from northstar.model.loop_deadline import timeout, wait
from northstar.runtime import data_wipe
from northstar.runtime.deadlines import Deadlines
from northstar.runtime.directories import notify_directory
from northstar.runtime.log_store import LogStore
from northstar.runtime.notifications import Notifications
from northstar.runtime.repository import Repository
from northstar.runtime.request_queue import RequestQueue
from northstar.runtime.running import RunningContainer
from northstar.runtime.start import StartContext, start
from northstar.runtime.statistics_cache import StatisticsCache

if TYPE_CHECKING:
    from northstar.model.notify import NotifyMessage
    from northstar.runtime.exec import ExecProcess, Terminal
    from northstar.runtime.probes import Probes
    from northstar.runtime.threads import Pool

log = logging.getLogger("northstar.runtime")

T = TypeVar("T")

_Effect = Coroutine[Any, Any, None] | Event | None
"""Of an action: how it goes on, or the event that it has caused, if it was executed at once."""

_REMOVED: Final = "another program has removed its directory, or unmounted it"


class Executor:
    """The registry of containers, with their packages, mounts and processes.

    Attributes:
        state: the registry.
        requests: requests on containers, queued for each container.
        running: the containers that have a process.
        logs: the logs of the containers.
        statistics: their statistics.
        give_up: set when the shutdown begins: ends waiting for devices.
        failed: done when a critical container has failed, with RefusedError.
    """

    def __init__(
        self,
        context: StartContext,
        repositories: Mapping[str, Repository],
        notifications: Notifications,
        give_up: threading.Event,
        logs: LogStore,
        floors: Mapping[Name, Version] | None = None,
    ) -> None:
        """Begin with a registry of empty repositories.

        Args:
            context: what every start uses.
            repositories: by identifier.
            notifications: the subscribers.
            give_up: set when the shutdown begins: ends waiting for devices.
            logs: the logs of the containers.
            floors: the newest version of each name that was ever committed.
        """
        self._context = context
        self._repositories = repositories
        self._notifications = notifications
        self.state = core.State(
            repositories={
                identifier: core.Repository(
                    capacity_num=repository.config.capacity_num,
                    capacity_size=repository.config.capacity_size,
                    mount_on_start=repository.config.mount_on_start,
                    anti_downgrade=repository.config.anti_downgrade,
                )
                for identifier, repository in repositories.items()
            },
            floors=floors or {},
        )
        self.requests = RequestQueue(self.apply)
        self._deadlines: Deadlines[Container] = Deadlines(self._deadline_reached)
        self._probes: Probes | None = None
        self.running: dict[Container, RunningContainer] = {}
        self.logs = logs
        self.statistics = StatisticsCache()
        self.give_up = give_up
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._roots: dict[Container, image_mount.Root] = {}
        self._has_umounted = False
        self._exits: list[tuple[Container, ExitStatus]] = []
        self._operations: set[asyncio.Future[Any]] = set()
        self._releases: set[asyncio.Future[Any]] = set()
        self._changed = asyncio.Event()
        self._attach = functools.partial(
            loop_device.attach, timeout=context.config.loop_device_timeout, give_up=self.give_up
        )
        self._execute: dict[type, Callable[[Any], _Effect]] = {
            actions.Mount: self._mount,
            actions.Umount: self._umount,
            actions.Launch: self._launch,
            actions.SendSignal: self._send_signal,
            actions.Release: self._release,
            actions.RemovePackage: self._remove_package,
            actions.WipeData: self._wipe_data,
            actions.SetDeadline: self._set_deadline,
            actions.StartProbe: self._start_probe,
            actions.EndProbe: self._end_probe,
            actions.RequestStart: self._request_start,
            actions.Publish: self._publish,
            actions.PublishState: self._publish_state,
            actions.Log: self._log,
            actions.Complete: self._complete,
            actions.Defer: self._defer,
            actions.Answer: self._answer,
            actions.Fail: self._fail,
        }

    def extend(self, handlers: Mapping[type, Callable[[Any], Any]]) -> None:
        """Add functions that execute other types of actions."""
        self._execute |= handlers

    # Events.

    def apply(self, event: Event) -> None:
        """Give an event to the core, and start the actions that it decides.

        Raises:
            RefusedError: the core refuses it.
        """
        if isinstance(event, (events.MountRequested, events.StartRequested)):
            self._report_lost_images(event.container)
        result = core.step(self.state, event, time.monotonic_ns())
        if isinstance(result, core.Refused):
            raise RefusedError(result.error)
        self.state = result.state
        effects = []
        for action in result.actions:
            effect = self._execute[type(action)](action)
            if effect is not None:
                effects.append(effect)
        self._changed.set()
        # After all actions: the core has ordered them, and an effect may lead to more of them.
        for effect in effects:
            if isinstance(effect, Coroutine):
                self.spawn(effect)
            else:
                self.apply(effect)

    async def request(self, request: Request) -> bool:
        """Process a request on a container, after earlier requests on it.

        Returns:
            Of a stop: whether SIGKILL was needed.

        Raises:
            RefusedError: it is refused, or has failed.
        """
        return await self.requests.submit(request)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine to its end, independent of its caller; the shutdown waits for it."""
        return self._spawn(work, self._operations)

    def _spawn(
        self, work: Coroutine[Any, Any, T], tasks: set[asyncio.Future[Any]]
    ) -> asyncio.Task[T]:
        # The event loop keeps only weak references to tasks: the set keeps them alive.
        task = asyncio.create_task(work)
        tasks.add(task)

        def ended(task: asyncio.Future[Any]) -> None:
            tasks.discard(task)
            self._changed.set()

        task.add_done_callback(ended)
        return task

    def _when_done(
        self, call: asyncio.Future[T], report: Callable[[asyncio.Future[T]], Event]
    ) -> None:
        """Report the result of a call in a thread as an event; the shutdown waits for it.

        A task that awaits the call would cost two more turns of the event loop.
        """
        self._operations.add(call)

        def ended(call: asyncio.Future[T]) -> None:
            self._operations.discard(call)
            self.apply(report(call))

        call.add_done_callback(ended)

    async def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition on the registry or the tasks; return False after the timeout."""
        try:
            async with timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return condition()
        return True

    def is_idle(self) -> bool:
        """Return whether no request and no action is in progress, except releases after an exit."""
        return not self._operations and not self.requests

    async def cancel_operations(self, seconds: float) -> int:
        """Cancel the actions in progress, and wait for their end; return their number.

        A cancelled launch kills its init, and releases what it has acquired.
        """
        late = tuple(self._operations)
        for task in late:
            task.cancel()
        if late:
            await wait(late, seconds)
        return len(late)

    # Packages.

    def _repository(self, container: Container) -> Repository:
        return self._repositories[self.state.containers[container].repository]

    async def _remove_package(self, action: actions.RemovePackage) -> None:
        container = action.container
        repository = self._repository(container)
        try:
            await repository.remove(container)
        except Exception as failure:
            self.apply(events.RemovalFailed(container, reason_of(failure, f"remove {container}")))
        else:
            self.logs.remove(container)
            self.apply(events.PackageRemoved(container))

    async def _wipe_data(self, action: actions.WipeData) -> None:
        container = action.container
        pools = self._context.pools
        path = self._data_path(container)
        log.info("Wiping persistent data dir %s of %s", path, container)
        try:
            detached = await pools.data.run(data_wipe.detach, path, self.give_up)
            self.apply(events.DataDetached(container))
            if detached is not None:
                await pools.wipes.run(data_wipe.remove, detached, self.give_up)
        except FileNotFoundError:
            self.apply(events.DataWiped(container))
        except Exception as failure:
            self.apply(
                events.WipeFailed(container, reason_of(failure, f"wipe data of {container}"))
            )
        else:
            self.apply(events.DataWiped(container))

    def _data_path(self, container: Container) -> str:
        return os.path.join(self._context.config.data_dir, container.name)

    # Images.

    def _mount_point(self, container: Container) -> str:
        return os.path.join(self._context.own.run_dir.path, str(container))

    def is_mounted(self, container: Container) -> bool:
        """Return whether an image is mounted at its mount point now. Costs one stat(2)."""
        root = self._roots.get(container)
        return root is not None and image_mount.is_mounted(self._mount_point(container), root)

    def _report_lost_images(self, container: Container) -> None:
        """Report images that a request may use and that another program has unmounted.

        Running containers are not affected: their mount namespaces contain copies of the mounts.
        """
        entry = self.state.containers.get(container)
        if entry is None:
            return
        mounts = entry.manifest.mounts.values()
        names = {container.name, *(mount.name for mount in mounts if isinstance(mount, Resource))}
        for other, used in tuple(self.state.containers.items()):
            if other.name not in names or used.image is not core.Image.MOUNTED:
                continue
            if not self.is_mounted(other):
                log.warning("The mount %s is gone: %s", self._mount_point(other), _REMOVED)
                self.apply(events.ImageLost(other))

    def _mount(self, action: actions.Mount) -> Event | None:
        container = action.container
        repository = self._repository(container)
        try:
            # First: a run_dir that was moved away contains the runtime's mounts.
            self._context.own.run_dir.restore()
            mounting = repository.mounts.begin(
                image_mount.mount_image,
                repository.packages[container].npk,
                self._mount_point(container),
                attach=self._attach,
                how=repository.config.verity,
            )
        except Exception as failure:
            return events.MountFailed(container, reason_of(failure, f"mount {container}"))
        self._when_done(mounting, functools.partial(self._mounted, container))
        return None

    def _mounted(self, container: Container, mounting: asyncio.Future[image_mount.Root]) -> Event:
        try:
            self._roots[container] = mounting.result()
        except asyncio.CancelledError:
            return events.MountFailed(container, "the runtime is shutting down")
        except Exception as failure:
            return events.MountFailed(container, reason_of(failure, f"mount {container}"))
        return events.ImageMounted(container)

    def _umount(self, action: actions.Umount) -> Event | None:
        container = action.container
        repository = self._repository(container)
        target = self._mount_point(container)
        run_dir = self._context.own.run_dir
        try:
            run_dir.refuse_if_moved()
            if repository.is_in_memory and not self._has_umounted and run_dir.is_in_memory():
                # No device is involved, and a thread would take longer than the system calls.
                # Several requests at once are shared with the threads.
                self._has_umounted = True
                asyncio.get_running_loop().call_soon(self._turn_ended)
                return self._unmounted(container, image_mount.umount_image(target))
            umounting = repository.mounts.begin(image_mount.umount_image, target)
        except Exception as failure:
            return events.UmountFailed(container, reason_of(failure, f"unmount {container}"))
        self._when_done(umounting, functools.partial(self._umount_ended, container))
        return None

    def _turn_ended(self) -> None:
        self._has_umounted = False

    def _umount_ended(self, container: Container, umounting: asyncio.Future[bool]) -> Event:
        try:
            return self._unmounted(container, umounting.result())
        except asyncio.CancelledError:
            # The mount ends with the runtime's mount namespace, after the kernel frees the thread.
            return events.UmountFailed(container, "its file system does not answer")
        except Exception as failure:
            return events.UmountFailed(container, reason_of(failure, f"unmount {container}"))

    def _unmounted(self, container: Container, found: bool) -> Event:
        del self._roots[container]
        if not found:
            target = self._mount_point(container)
            log.warning("The mount %s was gone already: %s", target, _REMOVED)
        return events.ImageUnmounted(container)

    # Processes.

    async def _launch(self, action: actions.Launch) -> None:
        container = action.container
        try:
            missing = await self._missing_directory(action)
            if missing is not None:
                self.apply(events.DirectoryMissing(container, missing))
                return
            paths = self.paths(container, action.resources)
            entry = self.state.containers[container]
            running = await start(
                self._context, entry.manifest, action.command, paths, entry.history.runs
            )
        except asyncio.CancelledError:
            self.apply(events.StartFailed(container, "the runtime is shutting down"))
            raise
        except Exception as failure:
            self.apply(events.StartFailed(container, reason_of(failure, f"start {container}")))
        else:
            self.running[container] = running
            if running.held.log is not None:
                self.logs.begin(running.held.log)
            self.apply(events.Executed(container, running.pid))
            running.when_exited(functools.partial(self._exited, container))

    def paths(self, container: Container, resources: Mapping[str, Container]) -> ContainerPaths:
        """Return the host paths of a start; `resources` by target."""
        return ContainerPaths(
            root=self._mount_point(container),
            persist=self._data_path(container),
            sockets=self._context.config.socket_dir,
            notify=notify_directory(self._context.own.run_dir.path, container),
            resources={target: self._mount_point(c) for target, c in resources.items()},
        )

    async def _missing_directory(self, action: actions.Launch) -> str | None:
        """Return the target of a resource mount whose directory the resource lacks."""
        mounts = self.state.containers[action.container].manifest.mounts
        for target, resource in action.resources.items():
            mount = mounts[target]
            assert isinstance(mount, Resource)
            pool = self._repository(resource).mounts
            root = self._mount_point(resource)
            if not await pool.run(image_mount.has_directory, root, mount.dir):
                return target
        return None

    def notified(self, container: Container, message: NotifyMessage) -> None:
        """Process a message on a container's notify socket."""
        self.apply(events.Notified(container, message))

    def drain_notify(self, container: Container) -> None:
        """Process the messages that a container has sent before an event."""
        running = self.running.get(container)
        for message in () if running is None else running.drain_notify():
            self.notified(container, message)

    def _exited(self, container: Container, status: ExitStatus) -> None:
        """Process an exit together with all others that are noticed in this turn of the loop."""
        if not self._exits:
            asyncio.get_running_loop().call_soon(self._process_exits)
        self._exits.append((container, status))

    def _process_exits(self) -> None:
        exits, self._exits = self._exits, []
        if len(exits) == 1:
            self._process_exit(*exits[0])
            return
        with self._notifications.together():
            for container, status in exits:
                try:
                    self._process_exit(container, status)
                except Exception:
                    # Not at the cost of the others.
                    log.exception("Failed to process the exit of %s", container)

    def _process_exit(self, container: Container, status: ExitStatus) -> None:
        oom = False
        if self.state.containers[container].manifest.service is not None:
            # A process that reports readiness and ends at once is ready before it ends.
            self.drain_notify(container)
            killed = isinstance(status, Signalled) and status.signal == signal.SIGKILL
            oom = killed and self.running[container].cgroup.oom_kills() > 0
        self.apply(events.ProcessExited(container, status, oom))

    def _release(self, action: actions.Release) -> Event | None:
        running = self.running[action.container]
        self.statistics.forget(running.cgroup)
        probed = self._probes is not None and self._probes.holds(action.container)
        if not probed and running.release_at_once():
            return self._released(running)
        self._spawn(self._release_all(running), self._releases)
        return None

    async def _release_all(self, running: RunningContainer) -> None:
        if self._probes is not None:
            await self._probes.ended(running.container)
        await running.release()
        self.apply(self._released(running))

    def _released(self, running: RunningContainer) -> Event:
        del self.running[running.container]
        return events.Released(running.container)

    def _send_signal(self, action: actions.SendSignal) -> Coroutine[Any, Any, None] | Event:
        container = action.container
        running = self.running[container]
        if action.number == signal.SIGSTOP:
            return self._stop_members(running)
        running.send_signal(action.number)
        return events.SignalSent(container)

    async def _stop_members(self, running: RunningContainer) -> None:
        try:
            await running.stop()
        except Exception:
            log.exception("Failed to stop %s", running.container)
        finally:
            self.apply(events.SignalSent(running.container))

    async def execute(
        self,
        entry: core.Entry,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bool,
        terminal: Terminal | None,
    ) -> ExecProcess:
        """Execute a program in a container whose payload runs: see `runtime.exec.execute`."""
        from northstar.runtime.exec import execute  # few devices need it

        return await execute(
            self._context,
            self.running[entry.container],
            entry.manifest,
            command,
            environment,
            stdin=stdin,
            terminal=terminal,
        )

    # Deadlines, and starts that the core requests.

    def _set_deadline(self, action: actions.SetDeadline) -> None:
        self._deadlines.set(action.container, action.when)

    def _deadline_reached(self, container: Container) -> None:
        self.drain_notify(container)
        self.apply(events.DeadlineReached(container))

    def _start_probe(self, action: actions.StartProbe) -> None:
        if self._probes is None:
            from northstar.runtime.probes import Probes  # few runtimes need it

            self._probes = Probes(self._context, self._context.config.max_probes, self.apply)
        container = action.container
        manifest = self.state.containers[container].manifest
        self._probes.start(self.running[container], manifest, action)

    def _end_probe(self, action: actions.EndProbe) -> None:
        assert self._probes is not None
        self._probes.end(action.container)

    def end_probe_threads(self, seconds: float) -> list[Pool]:
        """End the threads of probes; return the pools with threads that block in the kernel.

        Args:
            seconds: longest time to wait in total.
        """
        return [] if self._probes is None else self._probes.close(seconds)

    def _request_start(self, action: actions.RequestStart) -> None:
        container = action.container
        started = self.requests.submit(events.StartRequested(container, cause=action.cause))
        started.add_done_callback(functools.partial(self._start_ended, container))

    def _start_ended(self, container: Container, started: asyncio.Future[bool]) -> None:
        # The core has logged a refusal, and decided its consequences.
        failure = started.exception()
        if failure is not None and not isinstance(failure, RefusedError):
            log.error("Failed to start %s", container, exc_info=failure)

    # Notifications, log, answers.

    def _publish_state(self, action: actions.PublishState) -> None:
        if self._notifications.has_extended:
            entry = action.entry
            update = self.state.updates.get(entry.container.name)
            status = core.status_of_entry(entry, time.monotonic_ns(), update)
            self._notifications.publish(notification.State(entry.container, status))

    def _publish(self, action: actions.Publish) -> None:
        self._notifications.publish(action.notification)

    def _log(self, action: actions.Log) -> None:
        log.log(action.level, "%s", action.message)

    def _complete(self, action: actions.Complete) -> None:
        self.requests.complete(action.container, action.error)

    def _defer(self, action: actions.Defer) -> None:
        self.requests.defer(action.container, action.request)

    def _answer(self, action: actions.Answer) -> None:
        self.requests.answer(action.container, action.request, action.error, killed=action.killed)

    def _fail(self, action: actions.Fail) -> None:
        self.failed.set_exception(RefusedError(action.error))
        # Mark it as retrieved: during the shutdown nothing awaits it.
        self.failed.exception()


def reason_of(failure: Exception, what: str) -> str:
    """Return the reason of a failure. An unexpected exception is logged as well."""
    if not isinstance(failure, (NorthstarError, OSError)):
        log.error("Failed to %s", what, exc_info=failure)
    return sentence(failure)
