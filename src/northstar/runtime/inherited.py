"""Resets what the runtime inherits from its parent, so that containers do not inherit it.

Signals are reset before, for all commands: `northstar.cli.inherited`.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from northstar.manifest import Rlimit, RlimitResource

UMASK: Final = 0o022
"""Removes write access of other users. Files that need more protection get an explicit mode."""

_RAISED: Final = (
    RlimitResource.AS,
    RlimitResource.CPU,
    RlimitResource.DATA,
    RlimitResource.FSIZE,
    RlimitResource.NOFILE,
)
"""Soft limits that a long-running process with many descriptors or large files exceeds.
RLIMIT_FSIZE also applies to files in memory, and so to each launch plan."""

_DESCRIPTORS: Final = "/proc/self/fd"


def reset() -> dict[RlimitResource, Rlimit]:
    """Set the umask, mark inherited descriptors close-on-exec, raise soft limits.

    Returns:
        The former values of the changed limits, for payloads.

    Raises:
        OSError: /proc is not mounted.
    """
    os.umask(UMASK)
    _close_on_exec()
    return _raise_limits()


def _close_on_exec() -> None:
    """Set close-on-exec on all descriptors above 2.

    They are not closed: the configuration may be one of them (/dev/fd/N).
    """
    for name in os.listdir(_DESCRIPTORS):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # os.listdir's own descriptor is closed already
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
