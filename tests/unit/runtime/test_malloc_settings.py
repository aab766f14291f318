"""The settings of malloc(3), in a separate process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

MAY_SKIP = ("not glibc",)

GLIBC = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc")

THREADS = """
import ctypes, threading
from northstar.runtime import malloc_settings
if {saved}:
    malloc_settings.save_memory()
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


ONE_LARGE_BLOCK = """
import gc, re
from northstar.runtime import malloc_settings
if {saved}:
    malloc_settings.save_memory()
def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = own()
large = bytearray(b"x") * 4_000_000
del large
many = [bytearray(b"x") * 100_000 for _ in range(60)]
del many
gc.collect()
print(own() - before)
"""


def run(program: str, *, saved: bool) -> str:
    command = [sys.executable, "-c", program.format(saved=saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


@GLIBC
def test_one_heap_serves_all_threads() -> None:
    assert run(THREADS, saved=False).count("<heap nr=") > 1
    assert run(THREADS, saved=True).count("<heap nr=") == 1


@GLIBC
def test_a_large_block_does_not_change_what_is_kept() -> None:
    """By default glibc keeps twice as much as the largest block that was ever freed."""
    assert int(run(ONE_LARGE_BLOCK, saved=False)) > 4000
    assert int(run(ONE_LARGE_BLOCK, saved=True)) < 1000
