"""Sources of a package that a client sends."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Final, Protocol

from northstar.api import RefusedError
from northstar.model import InvalidValueError, NorthstarError
from northstar.model.text import UNNAMED_PACKAGE

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
        # Without O_NONBLOCK, opening a FIFO would wait for a writer; with a size that is meant.
        flags = os.O_NONBLOCK if size is None else 0
        with open(
            package, "rb", buffering=0, opener=lambda path, mode: os.open(path, mode | flags)
        ) as file:
            status = os.fstat(file.fileno())
            if size is None and not stat.S_ISREG(status.st_mode):
                raise InvalidValueError(
                    f"{os.fspath(package)} is not a regular file, and its size is not given",
                    hint="name a package (NAME-VERSION.npk), or give the size of the stream",
                )
            yield file, status.st_size if size is None else size
    elif size is None:
        raise InvalidValueError("the size of a package that is a stream must be given")
    else:
        yield package, size


@contextlib.contextmanager
def named(package: Path | bytes | Readable | AsyncReadable) -> Iterator[None]:
    """Name a package in the runtime's refusal as the caller did: it knows only the bytes."""
    try:
        yield
    except RefusedError as refused:
        name = package if isinstance(package, str | os.PathLike) else getattr(package, "name", "")
        name = os.fspath(name) if isinstance(name, str | os.PathLike) else ""
        reason = refused.message
        if not name or not reason.startswith(f"{UNNAMED_PACKAGE}: "):
            raise
        raise RefusedError(
            refused.error, name + reason.removeprefix(UNNAMED_PACKAGE), hint=refused.hint
        ) from None


def truncated_error(sent: int, total: int) -> NorthstarError:
    """Return the error for a package that is shorter than its size."""
    return NorthstarError(f"the package ends after {sent} bytes; its given size is {total}")
