"""System calls by name: seccomp_syscall_resolve_name(3) of libseccomp 2.5."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

LIBRARY: Final = "libseccomp.so.2"

_ERROR: Final = -1
"""__NR_SCMP_ERROR in seccomp.h. Other negative numbers are calls of other architectures."""

NEWER: Final = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
"""What libseccomp 2.5 does not know yet. New calls have the same number on all architectures;
include/uapi/asm-generic/unistd.h."""


@functools.cache
def _resolve() -> Any:
    # Not with the C library's functions: it may be missing where nobody asks for filters.
    function = ctypes.CDLL(LIBRARY)["seccomp_syscall_resolve_name"]
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_char_p]
    return function


def resolve_name(name: str) -> int | None:
    """Return the number of a system call, negative for one of another architecture.

    None if there is none of this name.

    Raises:
        OSError: the library is not installed.
    """
    newer = NEWER.get(name)
    if newer is not None:
        return newer
    number: int = _resolve()(name.encode())
    return None if number == _ERROR else number
