"""The files of one cgroup, kept open for repeated reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_SIZE: Final = 4096
"""Size of the first read, in bytes: most files are shorter, memory.stat is longer."""

_ABSENT: Final = -1


class Files:
    """The files of one cgroup, for a caller that reads them repeatedly.

    Opening and closing a file costs five times as much as reading it, so files stay open until
    `close`; the next read opens them again. A file that is missing, was removed, or is not
    supported (EOPNOTSUPP), reads as empty.

    Each open file costs a descriptor, and after its first read a page of the kernel's memory. Not
    thread-safe.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._opened: dict[str, int] = {}
        self._parsed: dict[str, tuple[bytes, Any]] = {}
        self._names: frozenset[str] | None = None

    def text(self, name: str) -> str:
        """Return the text of a file."""
        return self._read(name).decode("utf-8", "replace")

    def parsed(self, name: str, parse: Callable[[str], T]) -> T:
        """Return the result of `parse` for the text of a file.

        While the text is the same as at the last read, so is the result: the caller must not change
        it. A file has always the same `parse`.
        """
        data = self._read(name)
        found = self._parsed.get(name)
        if found is None or found[0] != data:
            found = self._parsed[name] = data, parse(data.decode("utf-8", "replace"))
        result: T = found[1]
        return result

    def number(self, name: str) -> int:
        """Return the only number in a file: -1 for `max`, 0 if the file is missing."""
        data = self._read(name)
        try:
            return int(data)
        except ValueError:
            return -1 if data.strip() == b"max" else 0

    def names(self) -> frozenset[str]:
        """Return the names of the files, from one listing that is kept until `close`.

        Empty if the cgroup was removed. Where most files are missing, a listing is cheaper than an
        attempt to open each.
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
        self._parsed.clear()
        self._names = None

    def _read(self, name: str) -> bytes:
        """Return the content of a file now: empty if it or its cgroup (ENODEV) was removed."""
        fd = self._opened.get(name)
        if fd is None:
            fd = self._open(name)
        if fd == _ABSENT:
            return b""
        try:
            # The kernel generates the text again at each read from offset 0.
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
            # For example EMFILE: the next read tries again.
            return _ABSENT
        self._opened[name] = fd
        return fd


def _read_long(fd: int) -> bytes:
    size = 4 * _SIZE
    while len(data := os.pread(fd, size, 0)) == size:
        size *= 4
    return data
