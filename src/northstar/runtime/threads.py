"""The threads for what blocks: all of them are there from the beginning.

A pool starts its threads when they are needed. Where the kernel then has no room for another one
(EAGAIN, as from a cgroup's pids.max) it fails, after it has queued the work: a thread that becomes
free does it later all the same, and a mount that was refused happens. So none is started later.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from northstar.model import HostError

NUMBER: Final = min(32, (os.cpu_count() or 1) + 4)
"""As many as asyncio would start."""


def start(number: int = NUMBER) -> ThreadPoolExecutor:
    """Return a pool whose threads all run.

    Raises:
        HostError: there is no room for them.
    """
    pool = ThreadPoolExecutor(number, thread_name_prefix="northstar")
    together = threading.Barrier(number + 1)
    try:
        # Each waits for the others, so none takes the work of two.
        for _ in range(number):
            pool.submit(together.wait)
    except RuntimeError as failure:
        together.abort()
        raise HostError(
            f"the runtime cannot start its {number} threads: {failure}",
            hint="raise the limit of processes (pids.max, TasksMax of the service), or free memory",
        ) from failure
    together.wait()
    return pool
