"""The numbers of system calls from this machine's kernel headers, not from libseccomp."""

from __future__ import annotations

import functools
import re
import subprocess

_DEFINED = re.compile(r"^#define (__NR\w*) (\S+)$", re.MULTILINE)

_SOURCES = {
    "x86_64": "#include <asm/unistd_64.h>\n",
    # The macros with which arm64 includes the common table (uapi/asm/unistd.h of arm64).
    "aarch64": """
#define __BITS_PER_LONG 64
#define __ARCH_WANT_RENAMEAT
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_SET_GET_RLIMIT
#define __ARCH_WANT_SYS_CLONE3
#define __ARCH_WANT_MEMFD_SECRET
#include <asm-generic/unistd.h>
""",
}


@functools.cache
def numbers(machine: str) -> dict[str, int]:
    """Return the numbers by name, of all calls in the headers."""
    done = subprocess.run(
        ["gcc", "-E", "-dM", "-"],
        input=_SOURCES[machine],
        capture_output=True,
        text=True,
        check=True,
    )
    defined = dict(_DEFINED.findall(done.stdout))
    found = {}
    for macro, value in defined.items():
        while value in defined:
            value = defined[value]
        if macro.startswith("__NR_") and value.isdigit():
            found[macro.removeprefix("__NR_")] = int(value)
    # These two mark the end of the table, and the start of a part of it.
    return {n: v for n, v in found.items() if n not in ("syscalls", "arch_specific_syscall")}
