"""Runs a Python program that reports on SIGUSR2 what it has allocated.

    counted.py FILE PYTHON -c CODE ARGUMENTS...

The numbers go to FILE, in one rename. `RuntimeProcess` takes this as its `wrap`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import msgspec


class Counts(msgspec.Struct, frozen=True):
    """The memory that a process has allocated, after garbage collection.

    Attributes:
        blocks: blocks of Python's allocator, which serves requests of up to 512 bytes.
        objects: objects that the garbage collector tracks, without those of the start (gc.freeze).
        heap: bytes in use from malloc(3), 0 if the C library does not report them.
    """

    blocks: int
    objects: int
    heap: int


_MALLINFO: Final = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
)


class _Mallinfo2(ctypes.Structure):
    """What mallinfo2 of mallinfo(3) returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO]


def _mallinfo() -> Any:
    call = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc, from 2.33 on
    if call is not None:
        call.restype = _Mallinfo2
    return call


def answer(file: Path) -> None:
    """Write Counts to `file` at each SIGUSR2 from now on."""
    mallinfo = _mallinfo()
    partial = file.with_name(f"{file.name}.partial")

    def count(_number: int, _frame: object) -> None:
        # Frees the garbage and the free lists of the interpreter, then its cache of 4096 attribute
        # lookups, which holds references to names.
        gc.collect()
        sys._clear_type_cache()
        blocks = sys.getallocatedblocks()
        objects = len(gc.get_objects())
        heap = mallinfo() if mallinfo is not None else None
        counts = Counts(blocks, objects, heap.uordblks + heap.hblkhd if heap else 0)
        partial.write_bytes(msgspec.json.encode(counts))
        os.rename(partial, file)

    signal.signal(signal.SIGUSR2, count)


def main() -> None:
    """Run the program in this process."""
    # The product of this tree, not an installed one.
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    _, file, _, _, code, *arguments = sys.argv
    sys.argv = ["-c", *arguments]
    answer(Path(file))
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
