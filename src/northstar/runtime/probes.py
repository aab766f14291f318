"""Executes the probes that the core decides, and reports their results as events.

A probe succeeds, fails, or cannot be executed because the runtime lacks a resource. The last says
nothing about the container, and must never end one: so each error is attributed to one of the two
where it occurs. At most `max_probes` are in progress; further ones wait, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from northstar.core import actions, events
from northstar.manifest import ConnectProbe, ExecProbe, Manifest
from northstar.model import Container, sentence
from northstar.runtime.probe_connect import Connector
from northstar.runtime.probe_results import EndedError, FailedError, LackingError
from northstar.runtime.running import RunningContainer
from northstar.runtime.start import StartContext
from northstar.runtime.threads import Pool

if TYPE_CHECKING:
    from northstar.runtime.probe_exec import ExecProbes

log = logging.getLogger("northstar.runtime")

Event = events.ProbeSucceeded | events.ProbeFailed | events.ProbeLacking


class Probes:
    """All probes in progress, and those that wait for their turn."""

    def __init__(self, context: StartContext, most: int, report: Callable[[Event], object]) -> None:
        """Execute at most `most` at once.

        Args:
            context: what every start uses.
            most: the number.
            report: called with the result of each probe that was not ended by `end`.
        """
        self._context = context
        self._slots = asyncio.Semaphore(most)
        self._report = report
        self._tasks: dict[Container, asyncio.Task[None]] = {}
        self._connector = Connector()
        self._execs: ExecProbes | None = None

    def start(
        self, running: RunningContainer, manifest: Manifest, action: actions.StartProbe
    ) -> None:
        """Begin a probe, as soon as there is a place for it."""
        container = action.container
        task = asyncio.create_task(self._run(running, manifest, action))
        self._tasks[container] = task

        def ended(task: asyncio.Task[None]) -> None:
            if self._tasks.get(container) is task:
                del self._tasks[container]

        task.add_done_callback(ended)

    def end(self, container: Container) -> None:
        """End a probe without a result. Its processes and descriptors are released meanwhile."""
        task = self._tasks.get(container)
        if task is not None:
            task.cancel()

    def holds(self, container: Container) -> bool:
        """Return whether a probe of a container holds anything, so that `ended` waits."""
        return container in self._tasks or (
            self._execs is not None and self._execs.holds(container)
        )

    async def ended(self, container: Container) -> None:
        """Wait until a probe of a container that has exited holds nothing any more."""
        task = self._tasks.get(container)
        if task is not None:
            await asyncio.wait((task,))
        if self._execs is not None:
            await self._execs.ended(container)

    def close(self, seconds: float) -> list[Pool]:
        """End all threads; return the pools with threads that block in the kernel.

        Args:
            seconds: longest time to wait in total.
        """
        return self._connector.close(seconds)

    async def _run(
        self, running: RunningContainer, manifest: Manifest, action: actions.StartProbe
    ) -> None:
        container = action.container
        async with self._slots:
            result = await self._result(running, manifest, action)
        # After this nothing waits, so `end` finds the task, or comes after the report.
        if self._tasks.get(container) is asyncio.current_task():
            del self._tasks[container]
            self._report(result)

    async def _result(
        self, running: RunningContainer, manifest: Manifest, action: actions.StartProbe
    ) -> Event:
        container = action.container
        try:
            await self._execute(running, manifest, action)
        except FailedError as failure:
            return events.ProbeFailed(container, failure.reason)
        except LackingError as failure:
            return events.ProbeLacking(container, failure.reason)
        except EndedError:
            # Its exit is about to be processed, and ends this probe.
            return events.ProbeFailed(container, "the container has ended")
        except Exception as failure:
            # A bug of the runtime must not end a container either.
            log.exception("Failed to probe %s", container)
            return events.ProbeLacking(container, sentence(failure))
        return events.ProbeSucceeded(container)

    async def _execute(
        self, running: RunningContainer, manifest: Manifest, action: actions.StartProbe
    ) -> None:
        """Execute a probe.

        Raises:
            FailedError, LackingError, EndedError: it has not succeeded.
        """
        seconds = action.timeout / 1e9
        match action.probe:
            case ConnectProbe(address=address):
                await self._connector.connect(running, address, seconds)
            case ExecProbe(command=command):
                await self._exec_probes().run(running, manifest, command, seconds)

    def _exec_probes(self) -> ExecProbes:
        if self._execs is None:
            from northstar.runtime.probe_exec import ExecProbes  # few containers need it

            self._execs = ExecProbes(self._context)
        return self._execs
