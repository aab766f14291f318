"""Thread pools for calls that block, one for each thing that such a call may wait for.

A device that does not answer holds every thread that uses it in the kernel. With one pool for
everything a few such calls would take all threads, and nothing else could be done. So each pool has
few threads, and only calls that wait for the same thing share one: a stalled device holds up only
what needs it.

All threads of a pool exist from the beginning. A pool that starts its threads when they are needed
fails where the kernel has no room for another one (EAGAIN, as from a cgroup's pids.max), after it
has queued the work: a thread that becomes free does it later all the same, and a mount that was
refused happens.

These are not threads of concurrent.futures.ThreadPoolExecutor, nor the default executor of
asyncio: the interpreter waits for those before it exits, without a limit. Here they are daemon
threads, which the interpreter does not wait for. A thread that the kernel holds in an
uninterruptible wait still keeps the process in the process table (as a zombie) until the kernel
lets go of it: exit_group(2) does not change that, and neither does SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Final, ParamSpec, Self, TypeVar

import msgspec

from northstar.model import HostError

P = ParamSpec("P")
T = TypeVar("T")

NUMBER: Final = 2
"""Threads of each pool. Two, so that one call that takes long does not delay all others. More bring
nothing: what they do in parallel waits for the same locks, of the interpreter and of the kernel.
A thread costs 30 KiB once it has worked, 15 before, without what the kernel has of it."""


class Pool(Executor):
    """A fixed number of daemon threads that take work from one queue.

    Attributes:
        name: what its threads work on, for a log.
    """

    def __init__(self, name: str, number: int) -> None:
        """Start all threads.

        Args:
            name: what they work on.
            number: how many, 1 or more.

        Raises:
            RuntimeError: there is no room for them; none is left.
        """
        self.name = name
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        try:
            for count in range(number):
                thread = threading.Thread(
                    target=_work, args=(self._queue,), name=f"{name}-{count}", daemon=True
                )
                thread.start()  # returns when it runs
                self._threads.append(thread)
        except RuntimeError:
            self.shutdown()
            raise

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; a future that is cancelled in time is not run.

        After `shutdown` the future is cancelled at once: what a cancelled task still tries to undo
        then must end, too.
        """
        call = _Call(functools.partial(fn, *args, **kwargs))
        if self._closed:
            call.future.cancel()
        else:
            self._queue.put(call)
        return call.future

    def __len__(self) -> int:
        """Return the number of threads."""
        return len(self._threads)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in a thread of this pool, and return what it returns.

        When the task that waits is cancelled, a call that has begun goes on.
        """
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have done what is queued; idempotent.

        Args:
            wait: until they have ended, however long that takes.
            cancel_futures: take what is queued and has not begun out of the queue first.
        """
        if not self._closed:
            self._closed = True
            if cancel_futures:
                with contextlib.suppress(queue.Empty):
                    while (call := self._queue.get_nowait()) is not None:
                        call.future.cancel()
            for _ in self._threads:
                self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def join(self, deadline: float) -> bool:
        """Wait for the threads to end after `shutdown`; False if some have not ended in time.

        Args:
            deadline: of `time.monotonic`.
        """
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)


class _Call:
    """A call and the future of its result."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._function = function

    def __call__(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except BaseException as failure:
            # It is raised where the result is waited for.
            self.future.set_exception(failure)
        else:
            self.future.set_result(result)


def _work(calls: queue.SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        # An idle thread must not keep arguments and results alive.
        del call


class Pools(msgspec.Struct, frozen=True):
    """The pools of a runtime.

    Attributes:
        storage: by repository: reads, writes and removes its package files.
        mounts: by repository: mounts and unmounts its images, and looks into them. Not one with
            `storage`: where a file system takes no writes, its images can be read all the same.
        kernel: makes and removes cgroups, looks at processes, makes filters of system calls:
            nothing that waits for a device or for another machine.
        data: makes directories of persistent data, takes them away from their containers, and looks
            up names of groups and hosts, which may ask a server. Both are rare, and few starts need
            them.
        wipes: removes persistent data, which may take minutes: no start waits for that.
    """

    storage: Mapping[str, Pool]
    mounts: Mapping[str, Pool]
    kernel: Pool
    data: Pool
    wipes: Pool

    @classmethod
    def start(cls, directories: Iterable[str], memories: Iterable[str]) -> Self:
        """Start the pools.

        Args:
            directories: the identifiers of the repositories that are directories.
            memories: of those in memory, which no device can stall: they share a pool.

        Raises:
            HostError: there is no room for the threads.
        """
        started: list[Pool] = []

        def pool(name: str, number: int = NUMBER) -> Pool:
            started.append(Pool(name, number))
            return started[-1]

        storage, mounts = {}, {}
        try:
            for identifier in directories:
                storage[identifier] = pool(f"the packages of the repository {identifier}")
                mounts[identifier] = pool(f"the mounts of the repository {identifier}")
            if memories := tuple(memories):
                shared = pool("the repositories in memory")
                storage |= dict.fromkeys(memories, shared)
                mounts |= dict.fromkeys(memories, shared)
            return cls(
                storage=storage,
                mounts=mounts,
                kernel=pool("cgroups and processes"),
                data=pool("persistent data and names of groups and hosts"),
                wipes=pool("the removal of persistent data", 1),
            )
        except RuntimeError as failure:
            for begun in started:
                begun.shutdown()
            number = sum(len(begun) for begun in started)
            raise HostError(
                f"the runtime cannot start more than {number} threads: {failure}",
                hint="raise the limit of processes (pids.max, TasksMax of the service), or free "
                "memory",
            ) from failure

    def __iter__(self) -> Iterator[Pool]:
        """Yield each pool once."""
        named = (*self.storage.values(), *self.mounts.values())
        return iter(dict.fromkeys((*named, self.kernel, self.data, self.wipes)))

    def stop(self, timeout: float) -> list[Pool]:
        """End all threads; return the pools with threads that the kernel does not let go of.

        What is queued is not begun any more.

        Args:
            timeout: seconds that all together are given.
        """
        deadline = time.monotonic() + timeout
        pools = tuple(self)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        return [pool for pool in pools if not pool.join(deadline)]
