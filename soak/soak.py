"""The soak: clients with random requests and faults, and a model that checks every answer.

A run is a sequence of rounds. In a round the workers (worker.py) make requests and faults. Then
all containers are killed and uninstalled, and descriptors, mounts, loop devices, cgroups, processes
and files must be the same as before the first request.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from northstar.api import notification, response
from northstar.client import Client, ConnectError, DisconnectedError
from soak import counted, recorded, world
from soak.checker import Checker, Violation
from soak.faults import LostError
from soak.memory import Memory
from soak.model import OK, Answer, Operation, answer_of
from soak.plan import Plan
from soak.worker import ANSWER_TIMEOUT, Worker
from tests.system import host
from tests.system.harness import RuntimeProcess

REPOSITORIES: Final = {
    "mem": 'type = "mem"',
    "full": 'type = "mem"\ncapacity_num = 0',
}
OPTIONS: Final = 'options = {{ npk_stream_timeout = "{:g}s" }}'
HISTORY: Final = 50

MOST: Final = 4
"""Limit of concurrent requests on one cluster."""

# The soak itself causes these: it sends invalid packages, and lets wipes fail.
_EXPECTED: Final = re.compile(r"Failed to install into |its data is not wiped")
_SQUEEZED: Final = re.compile(r"Failed to |Cannot accept a connection|Too many open files")


class Soak:
    """One run.

    Attributes:
        up: set while the runtime answers.
        groups: the clusters of containers, each with its possible states.
        waiting: number of requests whose answer a worker awaits.
        lenient: requests may fail, since the runtime lacks descriptors or shuts down.
        counts: number of requests, by kind and answer.
        faults: number of faults, by name.
        stalled: no client may stall within a package in this round.
        junk: files that faults have put into the runtime's directories.
        stream: all notifications of this round, in order.
        recording: the recorded events and decisions of the core, if the plan requests it.
    """

    def __init__(self, plan: Plan, directory: Path, payload: Path) -> None:
        self.plan = plan
        self.seed = plan.seed
        self.store = directory / "store"
        self.store.mkdir()
        repositories = {**REPOSITORIES, "fs": f'type = {{ fs = {{ dir = "{self.store}" }} }}'}
        self.recording = directory / "recording"
        wrapper = [counted.__file__, str(directory / "counts")]
        if plan.recorded:
            wrapper = [recorded.__file__, str(self.recording), *wrapper[1:]]
        self.runtime = RuntimeProcess(
            directory,
            repositories=repositories,
            console=OPTIONS.format(plan.stall),
            top="notification_buffer_size = 1024",
            wrap=(sys.executable, *wrapper),
        )
        self.pid = 0
        self.up = asyncio.Event()
        numbers = range(max(1, plan.clients // 2))
        self.groups = [Checker(cluster) for n in numbers for cluster in world.clusters(n)]
        self._of = {c: group for group in self.groups for c in group.cluster.containers}
        with tempfile.TemporaryDirectory(prefix="northstar-soak-") as work:
            made = [world.packages(Path(work), group.cluster, payload) for group in self.groups]
        self._packages = dict(zip(map(id, self.groups), made, strict=True))
        self.workers = [Worker(self, n, plan.faults) for n in range(plan.clients)]
        self.waiting = 0
        self.lenient = False
        self.squeezed = False
        self.stalled = False
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.junk: set[Path] = set()
        self.stream: list[notification.Notification] = []
        self.history: collections.deque[str] = collections.deque(maxlen=HISTORY)
        self.memory: list[Memory] = []
        self.done = 0
        self.life = 0
        self._left = 0
        self._numbers = 0
        self._talked = 0
        self._due = False
        self._pending: dict[Operation, Checker] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup
        self._observer: Client
        self._watch: asyncio.Task[None]
        self._before: host.Snapshot
        self.pinger: subprocess.Popen[bytes]

    # The run ------------------------------------------------------------------------------------

    async def run(self, report: Callable[[str], None] = print) -> None:
        """Run all rounds.

        Raises:
            Violation: the model does not allow an observation, or something leaks.
        """
        begun = time.monotonic()
        self.pinger = _pinger(self.runtime.url)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._start()
                assert self.pinger.stdout is not None
                await asyncio.to_thread(self.pinger.stdout.readline)
                self._before = self.runtime.snapshot()
                while self.done < self.plan.operations:
                    await self._round()
                    await self._quiesce()
                    took = time.monotonic() - begun
                    report(self._line(took))
                await self._stop()
        except BaseExceptionGroup as failures:
            violations = [each for each in _leaves(failures) if isinstance(each, Violation)]
            if violations:
                raise violations[0] from None
            raise
        finally:
            self.pinger.send_signal(signal.SIGCONT)
            self.pinger.terminate()
            ended = self.pinger.wait()
            if self.pinger.stdout is not None:
                self.pinger.stdout.close()
            self.runtime.close()
        if ended != -signal.SIGTERM:
            raise Violation(f"the pinger ended with {ended}")

    def _line(self, took: float) -> str:
        descriptors = len(os.listdir(f"/proc/{self.pid}/fd"))
        counts = self.memory[-1].counts
        widest = max(group.widest for group in self.groups)
        slowest = max(group.slowest for group in self.groups)
        return (
            f"step {self.done:7}  faults {self.faults.total():5}  life {self.life}  "
            f"{self.done / took:5.1f}/s  memory {self.memory[-1].own} KiB  "
            f"blocks {counts.blocks}  objects {counts.objects}  heap {counts.heap // 1024} KiB  "
            f"descriptors {descriptors}  possible states {widest} ({slowest:.2f} s)"
        )

    async def _start(self) -> None:
        await asyncio.to_thread(self.runtime.start)
        self.life += 1
        self.pid = self.runtime.pid
        for name in os.listdir(self.store):
            if name.startswith(".northstar"):
                raise Violation(f"{name} of an interrupted install still exists")
        self._observer = await Client.connect(self.runtime.url, subscribe=True, extended=False)
        self._watch = self._tasks.create_task(self._observe(self._observer))
        # Before `up` is set: each worker has one connection.
        for worker in self.workers:
            await worker.connect(early=True)
        self.up.set()

    async def _stop(self) -> None:
        self.up.clear()
        await self._observer.close()
        await self._watch
        for worker in self.workers:
            await worker.close()
        await asyncio.to_thread(self.runtime.stop)

    async def _round(self) -> None:
        number = self.done // self.plan.round
        third = max(1, self.plan.operations // self.plan.round // 3)
        every = max(1, third // max(1, self.plan.restarts))
        self._due = number < third and number % every == 0 and self.life <= self.plan.restarts
        self._left = min(self.plan.round, self.plan.operations - self.done)
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                group.create_task(worker.run())
        await self._finished()

    async def _finished(self) -> None:
        """Wait for the background tasks."""
        while self._background:
            await asyncio.wait(self._background)

    def take(self) -> bool:
        """Count a step of a worker; return False at the end of the round."""
        if self._left <= 0:
            return False
        self._left -= 1
        self.done += 1
        return True

    def restart_is_due(self) -> bool:
        """Return whether this worker must restart the runtime now: one per round, in the middle."""
        due = self._due and self._left < self.plan.round // 2
        self._due = self._due and not due
        return due

    def any_group(self, chance: random.Random) -> Checker:
        """Choose a cluster, in proportion to its number of containers."""
        return self._of[chance.choice([*self._of])]

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background of the round; its violations count."""

        async def unless_lost() -> None:
            with contextlib.suppress(LostError):
                await work

        task = self._tasks.create_task(unless_lost())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Observations -------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Keep a line for the report of a violation."""
        self.history.append(f"{time.monotonic():.4f} step {self.done} {text}")

    def sent(self, who: int, group: Checker, operation: Operation) -> None:
        """Register a request that is about to be sent."""
        self._numbers += 1
        operation.number = self._numbers
        operation.lenient = operation.lenient or self.lenient
        self._pending[operation] = group
        container = group.cluster.containers[operation.container]
        self.note(f"client {who} -> {operation} ({container})")
        group.ask(operation)

    def answered(self, group: Checker, operation: Operation, answer: Answer) -> None:
        """Check the answer of a request.

        Raises:
            Violation: the answer is wrong.
        """
        self.note(f"<- {operation} {answer}")
        del self._pending[operation]
        self.counts[f"{operation.kind} {answer[1] if answer[0] == 'refused' else 'ok'}"] += 1
        group.answer(operation, answer)

    def installed(self, group: Checker, operation: Operation, answer: response.Install) -> None:
        """Check the answer of an install over a raw connection."""
        result = answer.result
        refusal = answer_of(result.error) if isinstance(result, response.InstallFailed) else OK
        self.answered(group, operation, refusal)

    async def expect_in_stream(self, first: int, got: list[notification.Notification]) -> None:
        """Check the notifications of a subscriber that subscribed at place `first` or earlier.

        Raises:
            Violation: the observer's stream does not contain them as one sequence.
        """
        await self._observer.ident()
        deadline = time.monotonic() + 5
        while not any(self.stream[at : at + len(got)] == got for at in range(first + 1)):
            if time.monotonic() > deadline:
                raise Violation(
                    f"a subscriber received other notifications than the observer: {got}"
                )
            await asyncio.sleep(0.01)

    async def wait_for_room(self, *groups: Checker) -> None:
        """Wait until each cluster has fewer than MOST requests: the search grows with them."""
        while any(self._crowded(group) for group in groups):  # noqa: ASYNC110 - a count
            await asyncio.sleep(0.001)

    def _crowded(self, group: Checker) -> bool:
        return sum(its is group for its in self._pending.values()) >= MOST

    def abandoned(self, group: Checker) -> int:
        """Return the number of abandoned requests of a cluster."""
        return sum(o.abandoned and its is group for o, its in self._pending.items())

    def allow_failures(self, allowed: bool) -> None:
        """Allow requests to fail from now on, also those in progress; or end that."""
        self.lenient = allowed
        self.squeezed |= allowed
        if allowed:
            for operation in self._pending:
                operation.lenient = True

    def package(self, group: Checker, operation: Operation) -> bytes:
        """Return the package to install."""
        package = self._packages[id(group)][operation.container]
        return package if operation.container >= 0 else package[: len(package) // 2]

    async def _observe(self, client: Client) -> None:
        try:
            async for message in client.notifications():
                self._noticed(message)
        except DisconnectedError:
            if self.up.is_set():
                raise Violation("the observer was disconnected") from None

    def _noticed(self, message: notification.Notification) -> None:
        self.stream.append(message)
        self.note(f"** {message}")
        if isinstance(message, notification.CGroup):
            return
        if isinstance(message, notification.Shutdown):
            if self.up.is_set():
                raise Violation("an unrequested shutdown is announced")
            return
        status = str(message.status) if isinstance(message, notification.Exit) else ""
        self._talked += status == f"Exit({world.TALK})"
        container = str(message.container)
        self._of[container].announce(type(message).__name__.lower(), container, status)

    # Between rounds -----------------------------------------------------------------------------

    async def _quiesce(self) -> None:
        """Kill and uninstall all containers, and check that nothing is left."""
        # After this the runtime has read all requests of closed connections.
        await asyncio.to_thread(self.runtime.snapshot)
        worker = self.workers[0]
        every = [(g, n) for g in self.groups for n in range(len(g.cluster.containers))]
        for group, number in every:
            # Answered after all earlier requests on the same container.
            await worker.ask(group, Operation("kill", number, signal=9))
        await self._until_ended(worker, every)
        for operation in [o for o in self._pending if o.abandoned]:
            del self._pending[operation]
        assert not self._pending
        for group in self.groups:
            group.settle(idle=False)
        for group, number in every:
            await worker.ask(group, Operation("uninstall", number, wipe=True))
        await worker.list()
        await self._until_idle()
        self._clean()
        self._check_log()
        await self._until_nothing_leaks()
        if self.pinger.poll() is not None:
            raise Violation("the pinger has received a wrong answer")
        counts = await self._count()
        self.memory.append(Memory(self.life, self.done, _own_memory(self.pid), counts))
        self.stream.clear()
        # Stalls are slow: only in every fourth round.
        self.stalled = self.done // self.plan.round % 4 != 0

    async def _count(self) -> counted.Counts:
        """Return the memory that the runtime has allocated."""
        file = self.runtime.directory / "counts"
        os.kill(self.pid, signal.SIGUSR2)
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while not file.exists():
            if time.monotonic() > deadline:
                raise Violation("the runtime does not report its memory")
            await asyncio.sleep(0.005)
        counts = msgspec.json.decode(file.read_bytes(), type=counted.Counts)
        file.unlink()
        return counts

    async def _until_nothing_leaks(self) -> None:
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while True:
            now = await asyncio.to_thread(self.runtime.snapshot)
            # Mounts of the host appear in the runtime's namespace as well.
            here = str(self.runtime.directory)
            lines = self._before.difference(now).splitlines()
            leaks = [line for line in lines if here in line or not line.startswith("mounts:")]
            if not leaks:
                return
            if time.monotonic() > deadline:
                raise Violation("\n".join(["the runtime leaks:", *leaks]))
            await asyncio.sleep(0.05)

    async def _until_ended(self, worker: Worker, every: list[tuple[Checker, int]]) -> None:
        deadline = time.monotonic() + ANSWER_TIMEOUT
        for group, number in every:
            while True:
                answer = await worker.ask(group, Operation("inspect", number))
                if answer[0] == "refused" or not answer[3]:
                    break
                if time.monotonic() > deadline:
                    raise Violation(f"{group.cluster.containers[number]} still runs after KILL")
                await asyncio.sleep(0.002)

    async def _until_idle(self) -> None:
        """Wait until all notifications have arrived and the only possible state is empty."""
        await self._observer.ident()
        deadline = time.monotonic() + 5
        while True:
            try:
                for group in self.groups:
                    group.settle(idle=True)
            except Violation:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.002)
            else:
                return

    def _clean(self) -> None:
        """Remove the files of faults, and the data of containers uninstalled without a wipe."""
        for path in sorted(self.junk, reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        self.junk.clear()
        if left := os.listdir(self.store):
            raise Violation(f"files are left in the repository: {left}")
        names = {container.partition(":")[0] for container in self._of}
        for name in os.listdir(self.runtime.data_dir):
            # Data that was not wiped for want of descriptors is removed at the next start.
            unfinished = self.squeezed and name.startswith(".northstar-wipe:")
            if name not in names and not unfinished:
                raise Violation(f"{name} in the data directory belongs to no container")
            shutil.rmtree(self.runtime.data_dir / name)

    def _check_log(self) -> None:
        text = self.runtime.text()
        if "Traceback" in text or "internal error" in text:
            raise Violation("the log contains a traceback")
        for line in text.splitlines():
            excused = _EXPECTED.search(line) or (self.squeezed and _SQUEEZED.search(line))
            if " ERROR " in line and not excused:
                raise Violation(f"in the log: {line}")
        if text.count("connect_ack") < self._talked:
            raise Violation(f"{self._talked} containers used the console, not all received answers")
        self._talked = 0
        self.squeezed = False
        os.truncate(self.runtime.log, 0)

    # Restarts ------------------------------------------------------------------------------------

    async def restart(self) -> None:
        """Kill the runtime or shut it down, with requests in progress, and start it again."""
        while self.lenient:  # noqa: ASYNC110 - first restore its limit of descriptors
            await asyncio.sleep(0.01)
        kill = self.life % 2 == 1
        self.note("the runtime is killed" if kill else "the runtime is shut down")
        self.faults["kill the runtime" if kill else "shut the runtime down"] += 1
        self.up.clear()
        if kill:
            await asyncio.to_thread(self.runtime.kill)
        else:
            self.allow_failures(True)
            for group in self.groups:
                group.ending = True
            try:
                await asyncio.to_thread(self.runtime.stop)
            except AssertionError as failure:
                raise Violation(str(failure)) from None
            self.allow_failures(False)
        while self.waiting:  # noqa: ASYNC110 - a count of several workers
            await asyncio.sleep(0.001)
        await self._watch
        await self._finished()
        self._pending.clear()
        for worker in self.workers:
            worker.forget()
        for group in self.groups:
            group.restart()
        self.stream.clear()
        self._leave_behind()
        try:
            await self._start()
        except (AssertionError, ConnectError) as failure:
            raise Violation(f"the runtime does not start again: {failure}") from None

    def _leave_behind(self) -> None:
        """Create stale state of a worse end than this one, which the next start must replace."""
        container = self.groups[0].cluster.containers[0]
        mounted = self.runtime.run_dir / container
        if not mounted.exists():
            mounted.mkdir()
        stale = self.runtime.socket_dir / f"{container}:s"
        if not stale.exists():
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(stale))
        # Stale state may stay until its container is started again.
        self.junk |= {Path(path) for path in host.cgroups(self.runtime.cgroup, itself=False)}
        self.junk |= set(self.runtime.socket_dir.iterdir())
        self.junk |= set(self.runtime.run_dir.iterdir())


def _pinger(url: str) -> subprocess.Popen[bytes]:
    """Start the pinger before the runtime: later it would count as a process of the runtime."""
    command = [sys.executable, "-m", "soak.pinger", url]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE)


def _own_memory(pid: int) -> int:
    """Return RssAnon of a process in KiB (proc_pid_status(5))."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found
