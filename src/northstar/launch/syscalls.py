"""Names of system calls, for the check of a manifest before its first launch."""

from __future__ import annotations

from northstar.linux import seccomp


def is_syscall(name: str) -> bool:
    """Return whether any architecture has a system call of this name; True without libseccomp."""
    try:
        return seccomp.resolve_name(name) is not None
    except OSError:
        return True
