"""The operations on containers and repositories that clients request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from northstar import core
from northstar.api import InspectAnswer, RefusedError, response
from northstar.api.error import Unexpected
from northstar.api.request import Logs
from northstar.api.stream import TerminalSize
from northstar.core import events
from northstar.launch.plan import logged_streams
from northstar.manifest import Manifest
from northstar.model import Container, cut
from northstar.runtime.console.channel import Channel
from northstar.runtime.executor import Executor
from northstar.runtime.key_lists import KeyLists
from northstar.runtime.package_writer import PackageWriter
from northstar.runtime.repository import Repository
from northstar.runtime.update import Updates, UpdateWriter

if TYPE_CHECKING:
    from northstar.npk.keylist import KeyList
    from northstar.runtime.exec import ExecProcess

log = logging.getLogger("northstar.runtime")

_Answers = dict[Container, tuple[Manifest, str, InspectAnswer]]
"""Answers to inspect requests, each with the manifest and the repository that it contains."""

_COMMAND_MAX: Final = 1024
"""Longest command, in characters, that the log contains uncut."""


class ContainerOperations:
    """The operations of the console. A refused one raises RefusedError."""

    def __init__(
        self,
        executor: Executor,
        repositories: Mapping[str, Repository],
        key_lists: KeyLists,
        updates: Updates,
        shutdown: Callable[[], None],
    ) -> None:
        """Operate on the containers of `executor`; `shutdown` begins the shutdown."""
        self._updates = updates
        self._key_lists = key_lists
        self._executor = executor
        self._repositories = repositories
        self._shutdown = shutdown
        self._containers: Mapping[Container, core.Entry] = {}
        self._listed: tuple[Container, ...] = ()
        # The answers without the section `service` of the manifest, and those with it.
        self._answers: tuple[_Answers, _Answers] = ({}, {})

    def list(self) -> tuple[Container, ...]:
        """Return all installed containers, sorted: the same tuple while none is added or removed.

        The registry is immutable, so the same mapping has the same keys.
        """
        containers = self._executor.state.containers
        if containers is not self._containers:
            if containers.keys() != self._containers.keys():
                self._listed = tuple(sorted(containers))
            self._containers = containers
        return self._listed

    def repositories(self) -> Sequence[str]:
        """Return the identifiers of all repositories, sorted."""
        return sorted(self._repositories)

    def inspect(self, container: Container, *, service: bool = True) -> bytes:
        """Return the line of the answer with the data of a container.

        This does not wait: the statistics and the state of the mount are in the kernel's memory.

        Args:
            container: the container.
            service: whether its manifest contains the section `service`, which clients of
                Northstar 0.9.2 do not know: they refuse the whole answer for it.

        Raises:
            RefusedError: it is not installed.
        """
        executor = self._executor
        entry = core.entry_of(executor.state, container)
        process = None
        if entry.has_process and entry.run is not None:
            running = executor.running[container]
            process = response.Process(
                pid=running.pid,
                uptime_ns=time.monotonic_ns() - entry.run.executed,
                statistics=executor.statistics.read(running.cgroup),
            )
        return self._answer(entry, service).line(
            mounted=entry.image is core.Image.MOUNTED and executor.is_mounted(container),
            process=process,
        )

    def _answer(self, entry: core.Entry, service: bool) -> InspectAnswer:
        # Encoded at the first request: most manifests are never requested.
        container, manifest, repository = entry.container, entry.manifest, entry.repository
        kept = self._answers[service]
        found = kept.get(container)
        if found is not None and found[0] is manifest and found[1] == repository:
            return found[2]
        installed = self._executor.state.containers
        if len(kept) >= len(installed):
            for one in [one for one in kept if one not in installed]:
                del kept[one]
        answer = InspectAnswer(container, manifest.to_builtins(service=service), repository)
        kept[container] = manifest, repository, answer
        return answer

    def status(
        self, containers: Sequence[Container]
    ) -> Sequence[response.StatusOk | response.Failed]:
        """Return the status of each container, in this order."""
        now = time.monotonic_ns()
        results: list[response.StatusOk | response.Failed] = []
        for container in containers:
            try:
                status = core.status_of(self._executor.state, container, now)
            except RefusedError as refused:
                results.append(response.Failed(container, refused.error))
            else:
                results.append(response.StatusOk(container, status))
        return results

    async def mount(self, container: Container) -> None:
        """Mount a container's image."""
        await self._executor.request(events.MountRequested(container))

    async def umount(self, container: Container) -> None:
        """Unmount a container's image, which must not be in use."""
        await self._executor.request(events.UmountRequested(container))

    async def start(
        self,
        container: Container,
        init: str | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a container; returns when its payload runs.

        Args:
            container: the container.
            init: replaces the manifest's, which replaces `<INIT>` in it.
            arguments: replace the manifest's, unless empty.
            environment: replaces the manifest's, unless empty.
        """
        # Refuse a second start at once, without waiting for a start in progress.
        core.refuse_if_running(self._executor.state, core.entry_of(self._executor.state, container))
        await self._executor.request(
            events.StartRequested(container, init, tuple(arguments), environment or {})
        )

    async def kill(self, container: Container, number: int) -> None:
        """Send a signal (1..31) to a container's process group."""
        await self._executor.request(events.KillRequested(container, number))

    async def stop(
        self,
        container: Container,
        timeout: int | None,  # noqa: ASYNC109 - a part of the request
    ) -> bool:
        """Stop a container, and return after its exit; at once if it has no process.

        Args:
            container: the container.
            timeout: ns from its stop signal to SIGKILL; None for that of its manifest.

        Returns:
            Whether SIGKILL was needed.
        """
        return await self._executor.request(events.StopRequested(container, timeout))

    async def restart(self, container: Container) -> None:
        """Stop a container if it has a process, and start it; returns when its payload runs."""
        await self._executor.request(events.RestartRequested(container))

    async def execute(
        self,
        container: Container,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bool,
        terminal: TerminalSize | None,
        client: str,
    ) -> ExecProcess:
        """Execute a program in a started container, beside its payload.

        Args:
            container: the container.
            command: the program, a path in the container, and its arguments.
            environment: added to that of the manifest.
            stdin: whether it has an input; else its input is empty.
            terminal: the size of its terminal; None for pipes.
            client: the name of the client, for the log.
        """
        import shlex

        from northstar.runtime.exec import Terminal

        entry = core.refuse_exec(self._executor.state, container)
        core.refuse_exec_command(command)
        core.refuse_environment(environment)
        size = None if terminal is None else Terminal(terminal.rows, terminal.columns)
        process = await self._executor.execute(
            entry, command, environment, stdin=stdin, terminal=size
        )
        # After the execution: it is the record of what was done, and of who did it.
        log.info("%s executes in %s: %s", client, container, cut(shlex.join(command), _COMMAND_MAX))
        return process

    async def uninstall(self, container: Container, wipe: bool) -> None:
        """Remove a container that is not in use, and with `wipe` its persistent data too."""
        await self._executor.request(events.UninstallRequested(container, wipe))

    async def logs(self, request: Logs, channel: Channel) -> None:
        """Send the messages of a request for the log of a container.

        Raises:
            RefusedError: it is not installed, has no output, or the cursor is invalid.
        """
        container = request.container
        manifest = core.entry_of(self._executor.state, container).manifest
        if not logged_streams(manifest):
            raise RefusedError(Unexpected(_no_log(manifest)))
        from northstar.runtime.log_requests import LogRequests

        await LogRequests(self._executor.logs).serve(request, channel)

    async def begin_install(self, repository: str, size: int) -> PackageWriter:
        """Begin to receive a package of `size` bytes into a repository."""
        executor = self._executor
        executor.apply(events.InstallRequested(repository, size))
        into = self._repositories[repository]
        return PackageWriter(executor.apply, executor.spawn, into, await into.receive(size))

    async def begin_update(self, repository: str, size: int) -> UpdateWriter:
        """Begin to receive a package of `size` bytes for an update."""
        return await self._updates.receive(repository, size)

    async def keys(self, repository: str, new: str | None) -> KeyList:
        """Return the key list of a repository.

        Args:
            repository: its identifier.
            new: the text of a list that replaces the current one before; None for no change.
        """
        if new is None:
            return self._key_lists.current(repository)
        core.refuse_if_stopping(self._executor.state)
        # In a task of its own: it is completed if the client disconnects.
        replacing = self._executor.spawn(self._key_lists.replace(repository, new))
        return await asyncio.shield(replacing)

    def shutdown(self) -> None:
        """Begin the shutdown, and return at once."""
        self._shutdown()


def _no_log(manifest: Manifest) -> str:
    container = manifest.container
    if manifest.init is None:
        return f"{container} is a resource, which prints nothing: name the app that uses it"
    return (
        f"{container} has no log: its manifest discards stdout and stderr; set one of them to "
        "pipe or inherit in the section io"
    )
