"""What the runtime tells its subscribers."""

from __future__ import annotations

from northstar.api.shape import U64, Record, Row, Wrapper
from northstar.model import Container, ExitStatus


class Started(Wrapper, frozen=True):
    """A container was started."""

    container: Container


class Exit(Row, frozen=True):
    """A container ended; it can be started, unmounted and uninstalled again."""

    container: Container
    status: ExitStatus


class Install(Wrapper, frozen=True):
    """A package was installed."""

    container: Container


class Uninstall(Wrapper, frozen=True):
    """A package was removed."""

    container: Container


class Memory(Record, frozen=True):
    """Totals of memory.events (cgroup v2); with cgroup v1 only `oom`, which is 1."""

    low: U64 | None = None
    high: U64 | None = None
    max: U64 | None = None
    oom: U64 | None = None
    oom_kill: U64 | None = None


class CGroup(Row, frozen=True):
    """A cgroup of the container met a limit."""

    container: Container
    memory: Memory


class Shutdown(Record, frozen=True):
    """The runtime ends."""


Notification = Started | Exit | Install | Uninstall | CGroup | Shutdown
