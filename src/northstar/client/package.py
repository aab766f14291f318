"""What a client can send as a package."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Final, Protocol

from northstar.model import InvalidValueError, NorthstarError

CHUNK: Final = 2**18
"""Bytes that are read and sent at a time."""

Progress = Callable[[int, int], None]
"""Called with the bytes sent so far, and their total."""


class Readable(Protocol):
    """A binary file, or what can be read like one."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none only at the end."""


class AsyncReadable(Protocol):
    """What can be read as an asyncio.StreamReader can."""

    async def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none only at the end."""


Path = str | os.PathLike[str]


@contextlib.contextmanager
def opened(
    package: Path | bytes | Readable | AsyncReadable, size: int | None
) -> Iterator[tuple[Any, int]]:
    """Open a package: what to read it from, and its size in bytes. A file is closed after it.

    Raises:
        InvalidValueError: the size is not known and not given.
        OSError: it cannot be opened.
    """
    if isinstance(package, bytes):
        yield BytesIO(package), len(package)
    elif isinstance(package, str | os.PathLike):
        with open(package, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if size is None and not stat.S_ISREG(status.st_mode):
                raise InvalidValueError(
                    f"{os.fspath(package)} is not a regular file, and its size is not given"
                )
            yield file, status.st_size if size is None else size
    elif size is None:
        raise InvalidValueError("the size of a package that is a stream must be given")
    else:
        yield package, size


def short(sent: int, total: int) -> NorthstarError:
    """Return the error of a package that ends too early."""
    return NorthstarError(f"the package ends after {sent} bytes; its size was to be {total}")
