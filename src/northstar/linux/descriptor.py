"""What somebody owns and closes, a descriptor above all: what such objects have in common."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class Closing:
    """What has a `close` that may be called again, and is closed at the end of a with block."""

    def close(self) -> None:
        """Give back what it holds; idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Descriptor(Closing):
    """An open descriptor, closed by `close`, or at the end of a with block."""

    def __init__(self, fd: int) -> None:
        """Own `fd` from now on."""
        self._fd = fd

    @property
    def fd(self) -> int:
        """The open descriptor, -1 after `close`."""
        return self._fd

    def fileno(self) -> int:
        """Return the descriptor, -1 after `close`."""
        return self._fd

    def close(self) -> None:
        """Close it; closing again does nothing."""
        # Taken out first: a number that was closed may be somebody else's by the next call.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
