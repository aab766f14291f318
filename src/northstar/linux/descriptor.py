"""Base classes of objects that own a resource, such as a descriptor, until `close`."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class Closing:
    """An object with an idempotent `close`, which the end of a with block calls."""

    def close(self) -> None:
        """Release the resource; idempotent."""
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
        # The field is reset first: after close(2) the number may belong to another open file.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
