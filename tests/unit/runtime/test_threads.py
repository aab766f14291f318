"""Thread pools: a blocked pool delays neither other pools nor the end of the process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.model import HostError
from northstar.runtime import threads
from northstar.runtime.threads import Pool, Pools

DEADLINE = 20.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that a blocked thread waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pools() -> Iterator[Pools]:
    started = Pools.start(["a", "b"], ["m", "n"])
    yield started
    started.stop(DEADLINE)


def running() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_a_call_returns_or_raises() -> None:
    pool = Pool("test", 2)

    async def use() -> None:
        assert await pool.run(divmod, 7, 2) == (3, 1)
        assert await pool.run(int, "11", base=2) == 3
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)

    asyncio.run(use())
    pool.shutdown()


def test_all_threads_start_with_the_pool() -> None:
    before = running()
    pool = Pool("test", 3)
    assert len(pool) == 3
    assert len(running() - before) == 3
    # All of them work in parallel, and no further ones.
    barrier = threading.Barrier(4)
    calls = [pool.submit(barrier.wait, DEADLINE) for _ in range(3)]
    barrier.wait(DEADLINE)
    assert [call.result(DEADLINE) is not None for call in calls] == [True] * 3
    assert len(running() - before) == 3
    pool.shutdown()
    assert running() == before


def test_a_refused_thread_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = running()
    start = threading.Thread.start
    left = iter(range(5))

    def limited(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(HostError, match="cannot start more than 4 threads") as caught:
        Pools.start(["a", "b"], [])
    assert "pids.max" in (caught.value.hint or "")
    assert running() == before


def test_a_blocked_pool_delays_no_other(pools: Pools, gate: threading.Event) -> None:
    held = pools.storage["a"]
    waiting = [held.submit(gate.wait) for _ in range(10)]
    for pool in pools:
        if pool is not held:
            assert pool.submit(threading.get_ident).result(DEADLINE)
    assert not any(call.done() for call in waiting)
    gate.set()
    assert all(call.result(DEADLINE) for call in waiting)


def test_calls_that_wait_for_the_same_resource_share_a_pool(pools: Pools) -> None:
    """Repositories in memory wait for no device. Those of a directory are separate."""
    assert pools.storage["m"] is pools.mounts["m"] is pools.storage["n"]
    assert len({pools.storage["a"], pools.mounts["a"], pools.storage["b"], pools.mounts["b"]}) == 4
    assert sum(map(len, pools)) == 7 * threads.NUMBER + len(pools.wipes)


def test_a_cancelled_call_that_has_not_begun_is_not_made(gate: threading.Event) -> None:
    pool = Pool("test", 1)
    made: list[int] = []
    pool.submit(gate.wait)

    async def cancel() -> None:
        task = asyncio.create_task(pool.run(made.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    gate.set()
    pool.shutdown()
    assert made == []


def test_a_cancelled_call_that_has_begun_continues(gate: threading.Event) -> None:
    pool = Pool("test", 1)
    begun = threading.Event()
    made: list[int] = []

    def call() -> None:
        begun.set()
        gate.wait()
        made.append(1)

    async def cancel() -> None:
        task = asyncio.create_task(pool.run(call))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await pool.run(made.append, 2)

    asyncio.run(cancel())
    pool.shutdown()
    assert made == [1, 2]


def test_no_call_is_lost_or_made_twice() -> None:
    """Threads go idle while others submit: each call must find a thread."""
    pool = Pool("test", 2)
    made: list[int] = []

    def submit(first: int) -> None:
        for number in range(first, first + 500):
            assert pool.submit(made.append, number).result(DEADLINE) is None

    submitting = [threading.Thread(target=submit, args=(n * 500,)) for n in range(4)]
    for thread in submitting:
        thread.start()
    for thread in submitting:
        thread.join(DEADLINE)
    assert sorted(made) == list(range(2000))
    pool.shutdown()


def test_a_call_wakes_one_thread() -> None:
    """A second one would find nothing, and delay the first: both need the interpreter's lock."""
    before = set(os.listdir("/proc/self/task"))
    pool = Pool("test", 8)
    own = set(os.listdir("/proc/self/task")) - before

    def switches() -> dict[str, str]:
        """Return how often each thread has slept."""
        texts = {t: Path(f"/proc/self/task/{t}/status").read_text() for t in own}
        return {t: text.split("\nvoluntary_ctxt_switches:")[1] for t, text in texts.items()}

    def wait_idle() -> dict[str, str]:
        """Wait until all threads sleep in the kernel."""
        end = time.monotonic() + DEADLINE
        before: dict[str, str] = {}
        while before != (now := switches()) or len(pool._idle) < 8:
            assert time.monotonic() < end
            before = now
            time.sleep(0.02)
        return now

    begun = wait_idle()
    for _ in range(10):
        pool.submit(int).result(DEADLINE)
        now = wait_idle()
        assert sum(now[thread] != begun[thread] for thread in own) == 1
        begun = now
    pool.shutdown()


def test_a_call_that_ends_after_its_event_loop_harms_nothing(gate: threading.Event) -> None:
    pool = Pool("test", 1)
    begun = threading.Event()

    def call() -> None:
        begun.set()
        gate.wait()

    async def leave() -> None:
        asyncio.create_task(pool.run(call))  # noqa: RUF006 - asyncio.run cancels it
        await asyncio.to_thread(begun.wait)

    asyncio.run(leave())
    gate.set()
    assert pool.submit(int, "1").result(DEADLINE) == 1
    pool.shutdown()


def test_shutdown_cancels_awaited_calls(gate: threading.Event) -> None:
    pool = Pool("test", 1)
    pool.submit(gate.wait)
    made: list[int] = []

    async def use() -> None:
        queued = asyncio.create_task(pool.run(made.append, 1))
        await asyncio.sleep(0)
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(asyncio.CancelledError):
            await queued
        with pytest.raises(asyncio.CancelledError):
            await pool.run(made.append, 2)

    asyncio.run(use())
    gate.set()
    pool.shutdown()
    assert made == []


def test_stop_returns_the_blocked_pools(pools: Pools, gate: threading.Event) -> None:
    held = pools.mounts["b"]
    made: list[int] = []
    begun = [held.submit(gate.wait) for _ in range(len(held))]
    while not all(call.running() for call in begun):
        time.sleep(0.001)
    queued = held.submit(made.append, 1)
    since = time.monotonic()
    assert pools.stop(0.2) == [held]
    assert time.monotonic() - since < DEADLINE
    # New calls are cancelled at once, also in the clean-up of a cancelled task.
    assert pools.kernel.submit(made.append, 2).cancelled()
    assert queued.cancelled()
    gate.set()
    assert all(call.result(DEADLINE) for call in begun)
    assert pools.stop(DEADLINE) == []
    assert made == []


def test_the_process_ends_despite_a_blocked_thread() -> None:
    """The interpreter joins the threads of ThreadPoolExecutor, but not these."""
    program = (
        "import asyncio, threading\n"
        "from northstar.runtime.threads import Pools\n"
        "async def main():\n"
        "    pools = Pools.start(['a'], [])\n"
        "    held = pools.storage['a'].submit(threading.Event().wait)\n"
        "    task = asyncio.ensure_future(asyncio.wrap_future(held))\n"
        "    while not held.running():\n"
        "        await asyncio.sleep(0.001)\n"
        "    print([pool.name for pool in pools.stop(0.1)], flush=True)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['the packages of the repository a']\n"
