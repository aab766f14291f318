"""Sources of a package that a client sends."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Final, Protocol

from northstar.model import InvalidValueError, NorthstarError

CHUNK: Final = 2**18
"""Maximum bytes that are read and sent at once."""

Progress = Callable[[int, int], None]
"""Called with the bytes sent so far, and their total."""


class Readable(Protocol):
    """A binary file, or an object with its method `read`."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none only at the end."""


class AsyncReadable(Protocol):
    """An object with the method `read` of asyncio.StreamReader."""

    async def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none only at the end."""


Path = str | os.PathLike[str]


@contextlib.contextmanager
def opened(
    package: Path | bytes | Readable | AsyncReadable, size: int | None
) -> Iterator[tuple[Any, int]]:
    """Open a package; yield the object to read it from, and its size in bytes. Closes its file.

    Raises:
        InvalidValueError: the size is neither given nor known.
        OSError: the package cannot be opened.
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


def truncated_error(sent: int, total: int) -> NorthstarError:
    """Return the error for a package that is shorter than its size."""
    return NorthstarError(f"the package ends after {sent} bytes; its given size is {total}")
