"""The files of one cgroup, kept open for repeated reading."""

from __future__ import annotations

import os
from typing import Final

_SIZE: Final = 4096
"""How much is asked for at first, in bytes: most files are shorter, memory.stat is not."""

_ABSENT: Final = -1


class Files:
    """The files of one cgroup, for a caller that reads them again and again.

    Opening and closing one costs five times as much as reading it, so they stay open until `close`;
    then the next read opens them anew. A file that is not there, or not any more, or has lost its
    function (EOPNOTSUPP), is an empty one.

    Each open file costs a descriptor, and once it was read a page of the kernel's memory. Not for
    several threads at once.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._opened: dict[str, int] = {}
        self._names: frozenset[str] | None = None

    def text(self, name: str) -> str:
        """Return the text of a file."""
        return self._read(name).decode("utf-8", "replace")

    def number(self, name: str) -> int:
        """Return the only number in a file: -1 is `max`, 0 a file that is missing."""
        data = self._read(name)
        try:
            return int(data)
        except ValueError:
            return -1 if data.strip() == b"max" else 0

    def names(self) -> frozenset[str]:
        """Return which files there are, as they were when they were first opened.

        There are none if the cgroup is gone. Where most are missing this is cheaper than trying.
        """
        if self._names is None or not os.path.isdir(self.directory):
            try:
                self._names = frozenset(os.listdir(self.directory))
            except OSError:
                return frozenset()
        return self._names

    def close(self) -> None:
        """Close all files; idempotent."""
        for fd in self._opened.values():
            if fd != _ABSENT:
                os.close(fd)
        self._opened.clear()
        self._names = None

    def _read(self, name: str) -> bytes:
        """Return what a file holds now: nothing if it or its cgroup (ENODEV) is gone."""
        fd = self._opened.get(name)
        if fd is None:
            fd = self._open(name)
        if fd == _ABSENT:
            return b""
        try:
            # The kernel writes the text anew when it is read from its beginning, as a whole.
            data = os.pread(fd, _SIZE, 0)
            return data if len(data) < _SIZE else _read_long(fd)
        except OSError:
            return b""

    def _open(self, name: str) -> int:
        try:
            fd = os.open(f"{self.directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = _ABSENT
        except OSError:
            # No descriptor left: it may be there the next time.
            return _ABSENT
        self._opened[name] = fd
        return fd


def _read_long(fd: int) -> bytes:
    size = 4 * _SIZE
    while len(data := os.pread(fd, size, 0)) == size:
        size *= 4
    return data
