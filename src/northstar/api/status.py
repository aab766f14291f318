"""The status of a container: what is wanted, and what is observed."""

from __future__ import annotations

import enum

from northstar.api.shape import U64, Body
from northstar.model import ExitStatus


class Wanted(enum.Enum):
    """The requested state: changed by requests, the boot, and a restart policy that gives up."""

    UP = "up"
    DOWN = "down"


class ContainerState(enum.Enum):
    """The observed state. A process exists from `RUNNING` to `STOPPING`."""

    INSTALLED = "installed"
    """No process; the last run, if any, ended well or by request."""
    WAITING = "waiting"
    """No process: a container of its `after` is not ready yet."""
    STARTING = "starting"
    """Images are being mounted or the process launched, up to the payload's execve(2)."""
    RUNNING = "running"
    """The payload was executed, and is not ready yet."""
    READY = "ready"
    """The payload is ready; without `ready` in its manifest as soon as it was executed."""
    UNHEALTHY = "unhealthy"
    """Its probe or its watchdog has failed."""
    STOPPING = "stopping"
    """It was sent its stop signal, or has exited and is being cleaned up."""
    BACKOFF = "backoff"
    """No process: it will be started again at a known time."""
    FAILED = "failed"
    """No process: a run failed, and the runtime does not start it again."""
    REMOVING = "removing"
    """It is being uninstalled."""


class Status(Body, frozen=True):
    """The status of a container.

    Attributes:
        wanted: the requested state.
        state: the observed state.
        since: ns in this state.
        reason: why it is in this state, as a phrase; empty if there is nothing to say.
        run: number of the present or last run; grows with each start, 0 before the first.
        restarts: number of automatic restarts since the last start request.
        next: ns until the next start, in backoff.
        text: the app's own STATUS=, see sd_notify(3).
        last: how the last run ended.
    """

    wanted: Wanted
    state: ContainerState
    since: U64
    reason: str
    run: U64
    restarts: U64
    next: U64 | None
    text: str | None
    last: ExitStatus | None
