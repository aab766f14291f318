"""The writer of launcher/ring.c, driven by tests: sequentially, or in a thread at full speed."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Self

from northstar.runtime import ring
from northstar.runtime.logring import LogRing

HERE = Path(__file__).parent
LAUNCHER = HERE.parents[2] / "launcher"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-std=c11", "-D_GNU_SOURCE", "-pthread")


def compiled(source: str, output: Path, *options: str, compiler: str = "gcc") -> Path:
    """Compile a C file of this directory together with the writer."""
    files = [str(HERE / source), str(LAUNCHER / "ring.c")]
    subprocess.run([compiler, *WARNINGS, *options, "-o", str(output), *files], check=True)
    return output


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as directory:
        path = compiled("ring_writer.c", Path(directory, "writer.so"), "-O2", "-shared", "-fPIC")
        library = ctypes.CDLL(str(path))
    library.test_begin.restype = ctypes.c_void_p
    library.test_begin.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
    library.test_flood.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint64,
        *[ctypes.c_uint32] * 3,
        ctypes.c_uint64,
    ]
    library.test_total.restype = ctypes.c_uint64
    library.test_total.argtypes = [ctypes.c_void_p]
    library.test_close.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    library.ring_write.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_uint64,
        ctypes.c_char_p,
        ctypes.c_size_t,
    ]
    library.ring_end.argtypes = [ctypes.c_void_p]
    return library


def pattern(offset: int, length: int) -> bytes:
    """Return the bytes that `flood` has written at an offset; see ring_pattern.h."""
    return bytes(
        (at * 131 + (at >> 8) * 7 + (at >> 20)) & 0xFF for at in range(offset, offset + length)
    )


class RingWriter:
    """Writes a ring like init."""

    def __init__(self, log: LogRing) -> None:
        """Begin the ring, and open it for reading."""
        self._size = ring.PAGE + log.capacity
        # Descriptors of its own: the reader may close its ones first.
        self._bell = os.dup(log.bell)
        begun = _library().test_begin(log.memfd, self._size, self._bell)
        assert begun
        self._ring = begun
        self._count = 0
        log.open()

    def write(self, data: bytes, stream: int = 1, time: int | None = None) -> None:
        """Write one record; its time is the number of the record by default."""
        self._count += 1
        when = self._count if time is None else time
        _library().ring_write(self._ring, stream, when, data, len(data))

    def flood(self, count: int, least: int, most: int, *, pause: int = 0, seed: int = 1) -> None:
        """Write records of random sizes and streams, with pauses of up to `pause` us."""
        _library().test_flood(self._ring, count, least, most, pause, seed)

    def flooding(self, *args: int, **kwargs: int) -> threading.Thread:
        """Do the same in a thread, without the interpreter's lock; then end the ring."""

        def work() -> None:
            self.flood(*args, **kwargs)
            self.end()

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    @property
    def total(self) -> int:
        """Bytes of output so far, as the writer counts them."""
        return int(_library().test_total(self._ring))

    def end(self) -> None:
        """Report that there will be no more records."""
        _library().ring_end(self._ring)

    def close(self) -> None:
        """Release the writer's side, as the end of init does."""
        _library().test_close(self._ring, self._size)
        os.close(self._bell)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
