"""Files of the cgroup file system and their formats, the same in both versions.

Documentation/admin-guide/cgroup-v2.rst ("Interface Files") defines the formats.
"""

from __future__ import annotations

import os
import re
from typing import Final

_FLAT_KEYED: Final = r"(?m)^([^ \n]+) ([0-9]+)$"


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
    """Write a value to an existing file, in one system call as the kernel requires.

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
    """Parse lines of `KEY VALUE`; values that are not numbers are left out."""
    return {key: int(value) for key, value in re.findall(_FLAT_KEYED, text)}


def nested_keyed(text: str) -> dict[str, dict[str, int]]:
    """Parse lines of `KEY SUB=VALUE SUB=VALUE`; values that are not numbers are left out."""
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

    The kernel lists a process of another PID namespace as 0; these are left out.

    Raises:
        OSError: ENOENT or ENODEV if the cgroup was removed, EOPNOTSUPP for a threaded one.
    """
    return [pid for pid in map(int, read(f"{directory}/cgroup.procs").split()) if pid]


def children(directory: str) -> list[str]:
    """Return the paths of the direct children of a cgroup; none if it was removed."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
