"""Which names are those of system calls, for who checks a manifest before it is ever launched."""

from __future__ import annotations

from northstar.linux import seccomp


def is_syscall(name: str) -> bool:
    """Tell whether a system call of any architecture has this name.

    Without libseccomp nobody can tell: then every name may be one.
    """
    try:
        return seccomp.resolve_name(name) is not None
    except OSError:
        return True
