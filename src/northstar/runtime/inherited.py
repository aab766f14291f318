"""What the runtime inherits from its parent, and its containers must not inherit from it.

Signals are reset before, since that is for all commands: `northstar.cli.inherited`.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from northstar.manifest import Rlimit, RlimitResource

UMASK: Final = 0o022
"""Takes write access from others, and nothing from us. What is stricter has a mode of its own."""

_RAISED: Final = (
    RlimitResource.AS,
    RlimitResource.CPU,
    RlimitResource.DATA,
    RlimitResource.FSIZE,
    RlimitResource.NOFILE,
)
"""Soft limits that stop a process that runs for long, has many descriptors or writes large files.
RLIMIT_FSIZE is for files in memory too, and so for each launch plan."""

_DESCRIPTORS: Final = "/proc/self/fd"


def reset() -> dict[RlimitResource, Rlimit]:
    """Set the umask, keep inherited descriptors to ourselves, raise soft limits.

    Returns:
        The limits that were changed, as they were: those of payloads.

    Raises:
        OSError: /proc is not mounted.
    """
    os.umask(UMASK)
    _close_on_exec()
    return _raise_limits()


def _close_on_exec() -> None:
    """Mark all descriptors above 2 to be closed on exec.

    They are not closed: the configuration may be one of them (/dev/fd/N).
    """
    for name in os.listdir(_DESCRIPTORS):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # that of the listing itself is closed again
                os.set_inheritable(int(name), False)


def _raise_limits() -> dict[RlimitResource, Rlimit]:
    changed = {}
    for limited in _RAISED:
        soft, hard = resource.getrlimit(limited.number)
        if soft != hard:
            resource.setrlimit(limited.number, (hard, hard))
            changed[limited] = Rlimit(_limit(soft), _limit(hard))
    return changed


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value
