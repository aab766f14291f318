"""The status of a container: what is wanted, and what is observed."""

from __future__ import annotations

import enum

from northstar.api.shape import U64, Body
from northstar.model import ExitStatus


class Wanted(enum.Enum):
    """The requested state.

    It is changed by requests, by the boot, and by a restart policy that gives up.

    Attributes:
        UP: the container is to run.
        DOWN: the container is not to run.
    """

    UP = "up"
    DOWN = "down"


class ContainerState(enum.Enum):
    """The observed state. A process exists from `RUNNING` to `STOPPING`.

    After its end the state is kept until all that the container held is released.

    Attributes:
        INSTALLED: no process; the last run, if any, ended well or by request.
        WAITING: no process: a container of its `after` is not ready yet.
        STARTING: images are being mounted or the process launched, up to the payload's execve(2).
        RUNNING: the payload was executed, and is not ready yet.
        READY: the payload is ready; without `ready` in its manifest as soon as it was executed.
        UNHEALTHY: its probe or its watchdog has failed.
        STOPPING: it was sent its stop signal, or stops by itself.
        BACKOFF: no process: it will be started again at a known time.
        FAILED: no process: a run failed, and the runtime does not start it again.
        REMOVING: it is being uninstalled.
    """

    INSTALLED = "installed"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    REMOVING = "removing"


class Status(Body, frozen=True):
    """The status of a container.

    Attributes:
        wanted: the requested state.
        state: the observed state.
        since: nanoseconds in this state.
        reason: why it is in this state, as a phrase; empty if there is nothing to say.
        run: number of the present or last run; it grows with each start, and is 0 before the first.
        restarts: number of automatic restarts since the last start request.
        next: nanoseconds until the next start, in backoff; else null.
        text: the text that the app sent as STATUS=, see sd_notify(3); null without one.
        last: how the last run ended; null if none has ended.
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
