"""malloc(3) as the runtime wants it, in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

MAY_SKIP = ("not glibc",)

PROGRAM = """
import ctypes, threading
from northstar.linux import malloc
if {saved}:
    malloc.save_memory()
libc = ctypes.CDLL(None)
together = threading.Barrier(4)
def work():
    libc.free(ctypes.c_void_p(allocate(2000)))
    together.wait()
allocate = libc.malloc
allocate.restype = ctypes.c_void_p
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
together.wait()
for thread in threads:
    thread.join()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(*, saved: bool) -> int:
    command = [sys.executable, "-c", PROGRAM.format(saved=saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc")
def test_one_heap_serves_all_threads() -> None:
    assert heaps(saved=False) > 1
    assert heaps(saved=True) == 1
