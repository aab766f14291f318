"""Executes what the core decides in an update: its records, its package, its data, its answer."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from northstar.api import RefusedError
from northstar.api.response import UpdateOk
from northstar.api.status import ContainerState
from northstar.core import actions, events
from northstar.core.choice import choose_command, choose_resources
from northstar.core.update_steps import options
from northstar.core.update_values import UpdateStep
from northstar.launch.plan import build
from northstar.manifest import DataPolicy, Manifest
from northstar.model import Container, Name, NorthstarError, sentence
from northstar.runtime import data_snapshot, data_wipe
from northstar.runtime.deadlines import Deadlines
from northstar.runtime.executor import Executor, reason_of
from northstar.runtime.package_writer import IncomingWriter, store
from northstar.runtime.repository import IncomingFile, Package, Repository
from northstar.runtime.start import StartContext, groups_of
from northstar.runtime.state_store import StateStore

log: Final = logging.getLogger("northstar.runtime")

_REMOVALS: Final = (UpdateStep.REMOVE_OLD, UpdateStep.REMOVE_NEW)

Answer = asyncio.Future[UpdateOk]
"""Of the client of an update; it fails with RefusedError."""


class Updates:
    """The updates in progress.

    A verified package is kept here until the core stores it, or until its client is answered.
    """

    def __init__(
        self,
        executor: Executor,
        context: StartContext,
        repositories: Mapping[str, Repository],
        state_store: StateStore,
        give_up: threading.Event,
    ) -> None:
        """Add the actions of updates to those of `executor`.

        Args:
            executor: the registry.
            context: what every start uses.
            repositories: by identifier.
            state_store: contains the records.
            give_up: set when the shutdown begins: ends copies of data.
        """
        self._executor = executor
        self._context = context
        self._repositories = repositories
        self._store = state_store
        self._give_up = give_up
        self._timers: Deadlines[Name] = Deadlines(self._time_reached)
        self._answers: dict[Container, Answer] = {}
        self._held: dict[Container, tuple[Repository, IncomingFile, Package]] = {}
        executor.extend(
            {
                actions.WriteRecord: self._write_record,
                actions.StorePackage: self._store_package,
                actions.CopyData: self._copy_data,
                actions.RestoreData: self._restore_data,
                actions.DiscardData: self._discard_data,
                actions.SetUpdateTimer: self._set_timer,
                actions.RequestUninstall: self._request_uninstall,
                actions.CompleteUpdate: self._complete,
            }
        )

    # Requests.

    async def receive(self, repository: str, size: int) -> UpdateWriter:
        """Begin to receive a package of `size` bytes.

        Raises:
            RefusedError: the repository does not exist, or is full.
            OSError: it cannot be written.
        """
        executor = self._executor
        executor.apply(events.UpdateRequested(repository, size))
        into = self._repositories[repository]
        return UpdateWriter(self, executor, into, await into.receive(size))

    async def begin(self, repository: Repository, file: IncomingFile, package: Package) -> Answer:
        """Begin an update with a verified package; return the future of its result.

        Raises:
            RefusedError: it cannot begin. The caller closes the package, and discards the file.
        """
        manifest, new = package.npk.manifest, package.container
        executor = self._executor
        problem = await self._problem(manifest)
        reserved = False
        if problem is None:
            try:
                await self._store.reserve(new.name)
                reserved = True
            except (NorthstarError, OSError) as failure:
                problem = f"{new} cannot be tried: {sentence(failure)}"
        try:
            executor.apply(
                events.UpdateVerified(repository.identifier, manifest, package.npk.size, problem)
            )
        except BaseException:
            if reserved:
                await self._store.release(new.name)
            raise
        # The actions have not begun yet.
        answer: Answer = asyncio.get_running_loop().create_future()
        self._answers[new] = answer
        self._held[new] = repository, file, package
        return answer

    async def _problem(self, manifest: Manifest) -> str | None:
        """Return why this host cannot do the update; None if it can.

        That its repository can be written is known: the package was written there.
        """
        executor, new = self._executor, manifest.container
        try:
            if manifest.is_app:
                command = choose_command(manifest, None, (), {})
                resources = choose_resources(executor.state, manifest)
                paths = executor.paths(new, resources)
                groups = await groups_of(self._context, manifest)
                build(manifest, command, paths, self._context.facts, groups)
            if options(manifest).data is DataPolicy.SNAPSHOT:
                await self._on_data(data_snapshot.required, str(new.name), self._give_up)
        except RefusedError:
            # The core finds it too, among its own reasons.
            return None
        except (NorthstarError, OSError) as failure:
            return f"{new} cannot be tried: {sentence(failure)}"
        return None

    # Actions.

    async def _write_record(self, action: actions.WriteRecord) -> None:
        name = action.name
        try:
            await self._store.write_record(name, action.record, action.floor)
        except Exception as failure:
            what = f"write the state of the update of {name}"
            self._executor.apply(events.RecordFailed(name, reason_of(failure, what)))
        else:
            self._executor.apply(events.RecordWritten(name))

    async def _store_package(self, action: actions.StorePackage) -> None:
        container = action.container
        repository, file, package = self._held.pop(container)
        manifest = package.npk.manifest
        try:
            await store(repository, file, package)
        except Exception as failure:
            reason = reason_of(failure, f"store {container}")
            self._executor.apply(events.StoreFailed(repository.identifier, container, reason))
        else:
            self._executor.apply(events.PackageStored(repository.identifier, manifest))

    async def _copy_data(self, action: actions.CopyData) -> None:
        await self._data_step(action.name, "copy", data_snapshot.take, self._give_up)

    async def _discard_data(self, action: actions.DiscardData) -> None:
        await self._data_step(
            action.name, "remove the copy of", data_snapshot.discard, self._give_up
        )

    async def _restore_data(self, action: actions.RestoreData) -> None:
        replaced = await self._data_step(action.name, "restore", data_snapshot.restore)
        if replaced is not None:
            self._executor.spawn(self._wipe(replaced))

    async def _wipe(self, replaced: str) -> None:
        """Remove data that was replaced; what is left is removed at the next start."""
        try:
            await self._context.pools.wipes.run(data_wipe.remove, replaced, self._give_up)
        except OSError as failure:
            log.warning(
                "Cannot remove the data of a version that was rolled back: %s", sentence(failure)
            )

    async def _data_step(
        self, name: Name, what: str, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        try:
            result = await self._on_data(function, str(name), *arguments)
        except Exception as failure:
            reason = reason_of(failure, f"{what} the data of {name}")
            self._executor.apply(events.DataStepEnded(name, reason))
            return None
        self._executor.apply(events.DataStepEnded(name))
        return result

    async def _on_data(self, function: Callable[..., Any], *arguments: Any) -> Any:
        data_dir = self._context.own.data_dir

        def call() -> Any:
            # A directory that another program has removed is made again.
            data_dir.restore()
            return function(data_dir.path, *arguments)

        return await self._context.pools.data.run(call)

    def _set_timer(self, action: actions.SetUpdateTimer) -> None:
        self._timers.set(action.name, action.when)

    def _time_reached(self, name: Name) -> None:
        update = self._executor.state.updates.get(name)
        if update is not None:
            # What the app said before the end of the window counts.
            self._executor.drain_notify(update.record.new)
        self._executor.apply(events.UpdateTimeReached(name))

    def _request_uninstall(self, action: actions.RequestUninstall) -> None:
        container = action.container
        event = events.UninstallRequested(container, updating=True)
        removed = self._executor.requests.submit(event)
        removed.add_done_callback(functools.partial(self._uninstall_ended, container))

    def _uninstall_ended(self, container: Container, removed: asyncio.Future[bool]) -> None:
        failure = removed.exception()
        if failure is None:
            return
        if not isinstance(failure, RefusedError):
            log.error("Failed to uninstall %s", container, exc_info=failure)
        executor = self._executor
        update = executor.state.updates.get(container.name)
        waits = update is not None and update.begun and update.step in _REMOVALS
        entry = executor.state.containers.get(container)
        if waits and entry is not None and entry.state is not ContainerState.REMOVING:
            # The core has refused the request itself. A failure of the removal it knows already.
            executor.apply(events.RemovalFailed(container, sentence(failure)))

    def _complete(self, action: actions.CompleteUpdate) -> Coroutine[Any, Any, None] | None:
        answer = self._answers.pop(action.new, None)
        if answer is not None and not answer.done():
            if action.error is None:
                answer.set_result(UpdateOk(action.new, action.old))
            else:
                answer.set_exception(RefusedError(action.error))
                # Mark it as retrieved: the client may be gone.
                answer.exception()
        held = self._held.pop(action.new, None)
        return None if held is None else _discard(*held[1:])


async def _discard(file: IncomingFile, package: Package) -> None:
    package.npk.close()
    try:
        await file.discard()
    except OSError as failure:
        log.warning("Cannot remove the package of a refused update: %s", sentence(failure))


class UpdateWriter(IncomingWriter[UpdateOk]):
    """Receives the package of an update, and returns the result of the update."""

    def __init__(
        self, updates: Updates, executor: Executor, repository: Repository, file: IncomingFile
    ) -> None:
        """Receive into `file`; `updates` begins the update."""
        super().__init__(executor.apply, executor.spawn, repository, file)
        self._updates = updates
        self._begun = False

    async def commit(self) -> UpdateOk:
        """Begin the update, and wait for its end. It goes on if this is cancelled.

        Raises:
            RefusedError: it cannot begin, or was rolled back.
            PackageError: it is not a valid package.
            OSError: it could not be written.
        """
        self._committing = self._spawn(self._begin())
        answer: Answer = await asyncio.shield(self._committing)
        return await asyncio.shield(answer)

    async def _begin(self) -> Answer:
        package = await self._verified()
        try:
            answer = await self._updates.begin(self._repository, self._file, package)
        except BaseException:
            package.npk.close()
            raise
        self._begun = True
        return answer

    async def abort(self) -> None:
        """Discard what was received, unless the update has begun."""
        if self._committing is not None:
            await asyncio.wait((self._committing,))
        if not self._begun:
            await self._file.discard()
