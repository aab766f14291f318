"""`service`: the supervision of the container. Without it, nothing is supervised."""

from __future__ import annotations

import enum

import msgspec

from northstar.model import Name, Permission


class RestartPolicy(enum.Enum):
    """When an ended container is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Restart(msgspec.Struct, frozen=True):
    """Automatic restart. Durations are ns of CLOCK_MONOTONIC.

    The n-th restart in a row, counted from 0, comes `min(max_delay, delay * factor**n)` after the
    clean-up of the ended run.
    """

    policy: RestartPolicy
    delay: int = 10**9
    factor: int = 2
    max_delay: int = 300 * 10**9
    reset_after: int = 600 * 10**9
    limit: int | None = None
    interval: int | None = None


class Stop(msgspec.Struct, frozen=True):
    """The end of a run: a signal, and SIGKILL after `timeout` ns."""

    signal: int = 15
    timeout: int = 10 * 10**9


class ExecProbe(msgspec.Struct, frozen=True):
    """Succeeds if the program in the container exits with code 0."""

    command: tuple[str, ...]


class ConnectProbe(msgspec.Struct, frozen=True):
    """Succeeds if something accepts connections at `tcp:PORT` or `unix:PATH`."""

    address: str


class NotifyProbe(msgspec.Struct, frozen=True):
    """Succeeds when the payload sends READY=1 to its notify socket."""


Probe = ExecProbe | ConnectProbe


class Ready(msgspec.Struct, frozen=True):
    """When a run is ready; `timeout` in ns."""

    probe: Probe | NotifyProbe
    timeout: int = 60 * 10**9


class HealthAction(enum.Enum):
    """What follows when a container is unhealthy."""

    STOP = "stop"
    NONE = "none"


class Health(msgspec.Struct, frozen=True):
    """A probe that is repeated while the container is ready; durations in ns."""

    probe: Probe
    interval: int = 10 * 10**9
    timeout: int = 5 * 10**9
    failures: int = 3
    action: HealthAction = HealthAction.STOP


class Log(msgspec.Struct, frozen=True):
    """The log of its output: `size` in bytes."""

    size: int = 256 * 1024


class DataPolicy(enum.Enum):
    """What an update does with persistent data."""

    KEEP = "keep"
    SNAPSHOT = "snapshot"


class Update(msgspec.Struct, frozen=True):
    """The trial of a new version; `window` in ns."""

    window: int = 60 * 10**9
    tries: int = 3
    data: DataPolicy = DataPolicy.KEEP


class Service(msgspec.Struct, frozen=True):
    """Supervision of a container. Names in `after` have no version; `watchdog` is in ns."""

    restart: Restart | None = None
    stop: Stop | None = None
    after: tuple[Name, ...] = ()
    notify: str | None = None
    ready: Ready | None = None
    watchdog: int | None = None
    health: Health | None = None
    log: Log | None = None
    update: Update | None = None
    permissions: frozenset[Permission] = frozenset()
