"""The results of probes that have not succeeded, and which errors are the runtime's own."""

from __future__ import annotations

import errno
from typing import Final

LACKING: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC))
"""Errors of calls of the runtime that say nothing about the container: no descriptor, no memory, no
room in an epoll set."""


class FailedError(Exception):
    """The container has failed its probe.

    Attributes:
        reason: one printable line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LackingError(Exception):
    """The runtime lacks what the probe needs.

    Attributes:
        reason: one printable line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EndedError(Exception):
    """The container has ended meanwhile."""


def of_call(failure: OSError, what: str) -> FailedError | LackingError:
    """Return the result for a call about the container that has failed; `what` names its object."""
    reason = f"{what}: {failure.strerror}"
    return LackingError(reason) if failure.errno in LACKING else FailedError(reason)
