"""Names of system calls, and filters of system calls: libseccomp 2.5 and its manual pages.

The library is loaded at the first use, so it may be missing where no filter is used.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any, Final, NamedTuple

from northstar.linux import memfd
from northstar.linux.descriptor import Closing

LIBRARY: Final = "libseccomp.so.2"

SCMP_ARCH_X86_64: Final = 0xC000003E
SCMP_ARCH_AARCH64: Final = 0xC00000B7
"""Numbers of architectures in filters: AUDIT_ARCH_*, linux/audit.h."""

SECCOMP_RET_KILL_PROCESS: Final = 0x80000000
SECCOMP_RET_ERRNO: Final = 0x00050000
"""The low 16 bits contain the error number."""
SECCOMP_RET_ALLOW: Final = 0x7FFF0000
"""Results of a filter: seccomp(2). libseccomp's SCMP_ACT_* are the same numbers."""

_SCMP_FLTATR_ACT_BADARCH: Final = 2
_SCMP_FLTATR_CTL_OPTIMIZE: Final = 8
_SCMP_CMP_EQ: Final = 4
_SCMP_CMP_MASKED_EQ: Final = 7
_U64: Final = 2**64 - 1

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
"""Calls that libseccomp 2.5 lacks. New calls have the same number on all architectures:
include/uapi/asm-generic/unistd.h."""


class Comparison(NamedTuple):
    """True if `argument & mask == value`, in 64 bits; `argument` is a position (from 0)."""

    argument: int
    mask: int
    value: int


class _ArgCmp(ctypes.Structure):
    """struct scmp_arg_cmp; for MASKED_EQ the first datum is the mask."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


_U32 = ctypes.c_uint32
_CONTEXT = ctypes.c_void_p
_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "seccomp_syscall_resolve_name": (ctypes.c_int, ctypes.c_char_p),
    "seccomp_syscall_resolve_name_arch": (ctypes.c_int, _U32, ctypes.c_char_p),
    "seccomp_arch_native": (_U32,),
    "seccomp_init": (_CONTEXT, _U32),
    "seccomp_release": (None, _CONTEXT),
}
"""Result and arguments."""

_CHECKED_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "seccomp_arch_add": (_CONTEXT, _U32),
    "seccomp_arch_remove": (_CONTEXT, _U32),
    "seccomp_attr_set": (_CONTEXT, ctypes.c_int, _U32),
    "seccomp_rule_add_exact_array": (_CONTEXT, _U32, ctypes.c_int, ctypes.c_uint, _CONTEXT),
    "seccomp_export_bpf": (_CONTEXT, ctypes.c_int),
}
"""Arguments of the functions whose result is 0 or a negative error number."""


@functools.cache
def _function(name: str) -> Any:
    function: Any = ctypes.CDLL(LIBRARY)[name]
    if name in _CHECKED_FUNCTIONS:
        function.restype = ctypes.c_int
        function.argtypes = _CHECKED_FUNCTIONS[name]
        function.errcheck = functools.partial(_check, name)
    else:
        function.restype, *function.argtypes = _FUNCTIONS[name]
    return function


def _check(name: str, result: Any, _function: Any, _arguments: Any) -> None:
    if result < 0:
        raise OSError(-result, f"{name}: {os.strerror(-result)}")


def resolve_name(name: str) -> int | None:
    """Return the number of a system call, negative for one that only other architectures have.

    None if no system call has this name.

    Raises:
        OSError: the library is not installed.
    """
    newer = NEWER.get(name)
    if newer is not None:
        return newer
    number: int = _function("seccomp_syscall_resolve_name")(name.encode())
    return None if number == _ERROR else number


def resolve_name_on(arch: int, name: str) -> int | None:
    """Return the number of a system call on an architecture; None if that lacks the call.

    Args:
        arch: one of SCMP_ARCH_*.
        name: the name of the system call.

    Raises:
        OSError: the library is not installed.
    """
    newer = NEWER.get(name)
    if newer is not None:
        return newer
    number: int = _function("seccomp_syscall_resolve_name_arch")(arch, name.encode())
    return number if number >= 0 else None


class Filter(Closing):
    """A filter for one architecture: seccomp_init(3). Close it, or use it in a with block.

    It kills the process at calls that no rule allows, of other architectures, and of x32.
    """

    def __init__(self, arch: int) -> None:
        """Create a filter without rules, for one of SCMP_ARCH_*.

        Raises:
            OSError: the library is not installed, or too old.
        """
        native = _function("seccomp_arch_native")()
        self._context = _function("seccomp_init")(SECCOMP_RET_KILL_PROCESS)
        if self._context is None:
            raise OSError("seccomp_init: cannot create a filter that kills the process")
        try:
            if arch != native:
                _function("seccomp_arch_add")(self._context, arch)
                _function("seccomp_arch_remove")(self._context, native)
            self._set(_SCMP_FLTATR_ACT_BADARCH, SECCOMP_RET_KILL_PROCESS)
            # A binary tree instead of a list. The kernel runs a new filter for each system call
            # number, to cache those that are always allowed: the tree halves that time.
            self._set(_SCMP_FLTATR_CTL_OPTIMIZE, 2)
        except BaseException:
            self.close()
            raise

    def allow(self, name: str, *comparisons: Comparison) -> None:
        """Allow a system call that exists on the filter's architecture: seccomp_rule_add(3).

        A rule applies if all its comparisons are true. One rule that applies is enough.

        Raises:
            OSError: EINVAL for two comparisons of the same argument.
        """
        # The library takes the number on *this* machine, or its negative number for the call.
        number = resolve_name(name)
        assert number is not None, name
        array = (_ArgCmp * len(comparisons))(*map(_arg_cmp, comparisons))
        _function("seccomp_rule_add_exact_array")(
            self._context, SECCOMP_RET_ALLOW, number, len(comparisons), array
        )

    def export_bpf(self) -> bytes:
        """Return the filter as an array of struct sock_filter: seccomp_export_bpf(3)."""
        # The library can only write to a descriptor.
        file = memfd.create("seccomp-export")
        try:
            _function("seccomp_export_bpf")(self._context, file)
            return os.pread(file, os.fstat(file).st_size, 0)
        finally:
            os.close(file)

    def close(self) -> None:
        """Release it; idempotent."""
        context, self._context = self._context, None
        if context is not None:
            _function("seccomp_release")(context)

    def _set(self, attribute: int, value: int) -> None:
        _function("seccomp_attr_set")(self._context, attribute, value)


def _arg_cmp(comparison: Comparison) -> _ArgCmp:
    argument, mask, value = comparison
    if mask == _U64:
        return _ArgCmp(argument, _SCMP_CMP_EQ, value, 0)
    return _ArgCmp(argument, _SCMP_CMP_MASKED_EQ, mask, value)
