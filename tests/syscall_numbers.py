"""The numbers of system calls, out of this machine's kernel headers: not out of libseccomp."""

from __future__ import annotations

import functools
import re
import subprocess

_DEFINED = re.compile(r"^#define (__NR\w*) (\S+)$", re.MULTILINE)

_SOURCES = {
    "x86_64": "#include <asm/unistd_64.h>\n",
    # How arm64 reads the table that most architectures share (its own uapi/asm/unistd.h).
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
    """Return the numbers by name, as far as the headers know them."""
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
    # The end of the table, and the start of a part of it.
    return {n: v for n, v in found.items() if n not in ("syscalls", "arch_specific_syscall")}
