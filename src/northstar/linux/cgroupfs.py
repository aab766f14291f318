"""What both versions of the cgroup file system share: its files and their formats.

Documentation/admin-guide/cgroup-v2.rst ("Interface Files") names the formats; version 1 uses the
same ones.
"""

from __future__ import annotations

import os
import re
from typing import Final

_SIZE: Final = 4096
"""How much is asked for at first, in bytes: most files are shorter, memory.stat is not."""

_ABSENT: Final = -1
_FLAT_KEYED: Final = re.compile(r"^([^ \n]+) ([0-9]+)$", re.MULTILINE)


class Files:
    """The files of one cgroup, for who reads them again and again.

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


def read(path: str) -> str:
    """Return the text of a file.

    Raises:
        OSError: ENOENT if the kernel, or this cgroup, lacks it; ENODEV if the cgroup was removed;
            EOPNOTSUPP.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "replace")


def write(path: str, value: str) -> None:
    """Give an existing file a value, in one system call as the kernel wants it.

    Raises:
        OSError: ENOENT, or the kernel's reason to refuse the value.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def flat_keyed(text: str) -> dict[str, int]:
    """Parse lines of `KEY VALUE`; what is no number is left out."""
    return {key: int(value) for key, value in _FLAT_KEYED.findall(text)}


def nested_keyed(text: str) -> dict[str, dict[str, int]]:
    """Parse lines of `KEY SUB=VALUE SUB=VALUE`; what is no number is left out."""
    found = {}
    for line in text.splitlines():
        key, *pairs = line.split(" ")
        values = {}
        for pair in pairs:
            name, separator, value = pair.partition("=")
            if separator and value.isascii() and value.isdigit():
                values[name] = int(value)
        if key:
            found[key] = values
    return found


def procs(directory: str) -> list[int]:
    """Return the processes in a cgroup (`cgroup.procs`), not those in cgroups below it.

    A process of another PID namespace is 0 there, and left out.

    Raises:
        OSError: ENOENT or ENODEV if the cgroup is gone, EOPNOTSUPP in a threaded one.
    """
    return [pid for pid in map(int, read(f"{directory}/cgroup.procs").split()) if pid]


def children(directory: str) -> list[str]:
    """Return the paths of the cgroups right below one; none if it is gone."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
