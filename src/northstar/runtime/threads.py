"""Thread pools for blocking calls, one pool per resource that the calls wait for.

A device that does not answer blocks every thread that uses it. In a single pool a few such calls
would occupy all threads, and block all other work. So each pool has few threads, and only calls
that wait for the same resource share one: a stalled device delays only the work that needs it.

A pool starts all its threads at creation. A pool that starts threads on demand fails if the kernel
refuses a thread (EAGAIN, as from a cgroup's pids.max) after the work was queued: another thread
executes it later nevertheless, and a mount that was refused happens.

concurrent.futures.ThreadPoolExecutor and asyncio's default executor are not suitable: the
interpreter waits for their threads before it exits, without a limit. It does not wait for the
daemon threads used here. A thread in an uninterruptible wait still keeps the process in the process
table (as a zombie) until the wait ends, despite exit_group(2) and SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Final, ParamSpec, Self, TypeVar

import msgspec

from northstar.model import HostError

P = ParamSpec("P")
T = TypeVar("T")

NUMBER: Final = 2
"""Threads of each pool. Two, so that one long call does not delay all others. More would not help:
parallel calls wait for the same locks of the interpreter and of the kernel. A thread costs 15 KiB,
and 30 KiB after its first call, without the kernel's memory."""


class Pool(Executor):
    """A fixed number of daemon threads that take work from one queue.

    Attributes:
        name: what its threads work on, for the log.
    """

    def __init__(self, name: str, number: int) -> None:
        """Start all threads.

        Args:
            name: what they work on.
            number: the number of threads, at least 1.

        Raises:
            RuntimeError: the kernel refuses a thread; those already started are ended.
        """
        self.name = name
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._calls: deque[_Call | _AwaitedCall] = deque()
        self._threads: list[threading.Thread] = []
        self._closed = False
        try:
            for count in range(number):
                thread = threading.Thread(
                    target=self._work, args=(_Worker(),), name=f"{name}-{count}", daemon=True
                )
                thread.start()  # returns after the thread runs
                self._threads.append(thread)
        except RuntimeError:
            self.shutdown()
            raise

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call. A future that is cancelled before its call begins is not run.

        After `shutdown` the future is cancelled at once, so that the clean-up of a cancelled task
        ends as well.
        """
        call = _Call(functools.partial(fn, *args, **kwargs))
        self._put(call)
        return call.future

    def __len__(self) -> int:
        """Return the number of threads."""
        return len(self._threads)

    def begin(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Call `function` in a thread of this pool; return a future of the event loop.

        If the future is cancelled, a call that has begun continues.
        """
        call = _AwaitedCall(functools.partial(function, *args, **kwargs))
        self._put(call)
        return call.future

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in a thread of this pool, and return its result.

        If the waiting task is cancelled, a call that has begun continues.
        """
        return await self.begin(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after the queued calls; idempotent.

        Args:
            wait: wait until they have ended, without a limit.
            cancel_futures: cancel queued calls that have not begun.
        """
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            cancelled = list(self._calls) if cancel_futures else []
            if cancel_futures:
                self._calls.clear()
        for call in cancelled:
            call.future.cancel()
        for worker in idle:
            worker.wake.release()
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

    def _put(self, call: _Call | _AwaitedCall) -> None:
        """Give a call to one idle thread, or queue it; cancel it after `shutdown`."""
        with self._lock:
            if self._closed:
                worker = None
            elif self._idle:
                worker = self._idle.pop()
            else:
                self._calls.append(call)
                return
        if worker is None:
            call.future.cancel()
        else:
            worker.call = call
            worker.wake.release()

    def _work(self, worker: _Worker) -> None:
        while (call := self._take(worker)) is not None:
            call()
            # An idle thread must not keep references to arguments and results.
            del call

    def _take(self, worker: _Worker) -> _Call | _AwaitedCall | None:
        """Return the next call for a thread, when there is one; None after `shutdown`."""
        with self._lock:
            if self._calls:
                return self._calls.popleft()
            if self._closed:
                return None
            self._idle.append(worker)
        worker.wake.acquire()
        call, worker.call = worker.call, None
        return call


class _Worker:
    """A thread of a pool, while it waits.

    Each waits for its own lock, so that a call wakes one thread. `queue.SimpleQueue` wakes two: the
    thread that takes an element releases the queue's lock, on which the next one waits. That one
    finds nothing, but both then contend for the interpreter's lock, which doubles the time until
    the call begins.

    Attributes:
        wake: released when there is a call, or none will come.
        call: the call.
    """

    __slots__ = ("call", "wake")

    def __init__(self) -> None:
        self.wake = threading.Lock()
        self.wake.acquire()
        self.call: _Call | _AwaitedCall | None = None


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
            # It is raised where the result is awaited.
            self.future.set_exception(failure)
        else:
            self.future.set_result(result)


class _AwaitedCall:
    """A call that a coroutine awaits, with a future of its event loop.

    This costs half of what a `concurrent.futures.Future` and `asyncio.wrap_future` cost, 50 us per
    call: most requests need one call or two.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()
        self._function = function

    def __call__(self) -> None:
        # A cancellation that this misses counts as one after the beginning of the call.
        if self.future.cancelled():
            return
        result, failure = None, None
        try:
            result = self._function()
        except BaseException as raised:
            # It is raised where the result is awaited.
            failure = raised
        try:
            # RuntimeError: the loop is closed. Then nothing awaits the result.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle, result, failure)
        finally:
            # The traceback of the exception refers to this frame.
            del failure

    def _settle(self, result: object, failure: BaseException | None) -> None:
        if self.future.cancelled():
            return
        if failure is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(failure)


class Pools(msgspec.Struct, frozen=True):
    """The pools of a runtime.

    Attributes:
        storage: by repository: reads, writes and removes its package files.
        mounts: by repository: mounts, unmounts and examines its images. Separate from `storage`:
            if the file system blocks writes, its images may still be readable.
        kernel: creates and removes cgroups, examines processes, compiles system call filters: no
            call that waits for a device or for another machine.
        data: creates and renames directories of persistent data, and resolves names of groups and
            hosts, which may wait for a server. Both are rare, and few starts need them.
        wipes: removes persistent data, which may take minutes: no start waits for it.
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
            directories: identifiers of the repositories in directories.
            memories: identifiers of those in memory, which wait for no device: they share a pool.

        Raises:
            HostError: the kernel refuses the threads.
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
        """End all threads; return the pools with threads that block in the kernel.

        Queued calls are cancelled.

        Args:
            timeout: seconds to wait in total.
        """
        deadline = time.monotonic() + timeout
        pools = tuple(self)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        return [pool for pool in pools if not pool.join(deadline)]
