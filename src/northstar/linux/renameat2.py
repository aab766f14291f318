"""The exchange of two names: renameat2(2). `os.rename` has no flags."""

from __future__ import annotations

import ctypes
from typing import Final

from northstar.linux._libc import function, path_bytes

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

_int, _path = ctypes.c_int, ctypes.c_char_p
_renameat2 = function("renameat2", _int, _path, _int, _path, ctypes.c_uint, paths=(1, 3))


def renameat2(
    source_directory: int, source: str, target_directory: int, target: str, flags: int
) -> None:
    """Rename a file, or exchange two.

    Args:
        source_directory: an open directory.
        source: the name of the file in it.
        target_directory: another one, or the same.
        target: its new name; with RENAME_EXCHANGE the name of the other file, which must exist.
        flags: RENAME_*.

    Raises:
        OSError: ENOENT, EEXIST; EINVAL if the file system does not support the flag.
    """
    _renameat2(source_directory, path_bytes(source), target_directory, path_bytes(target), flags)
