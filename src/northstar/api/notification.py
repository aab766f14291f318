"""What the runtime tells its subscribers."""

from __future__ import annotations

from northstar.api.shape import U64, Record, Row, Wrapper
from northstar.model import Container, ExitStatus


class Started(Wrapper, frozen=True):
    """A container was started.

    Attributes:
        container: the one that was started.
    """

    container: Container


class Exit(Row, frozen=True):
    """A container ended; it can be started, unmounted and uninstalled again.

    Attributes:
        container: the one that ended.
        status: its exit code, or the signal that ended it.
    """

    container: Container
    status: ExitStatus


class Install(Wrapper, frozen=True):
    """A package was installed.

    Attributes:
        container: the one in the package.
    """

    container: Container


class Uninstall(Wrapper, frozen=True):
    """A package was removed.

    Attributes:
        container: the one that was in the package.
    """

    container: Container


class Memory(Record, frozen=True):
    """Totals of memory.events (cgroup v2); with cgroup v1 only `oom`, which is 1.

    Attributes:
        low: how often memory was reclaimed though usage was below `memory.low`.
        high: how often processes were slowed down since usage was above `memory.high`.
        max: how often usage was about to exceed `memory.max`.
        oom: how often an allocation was about to fail.
        oom_kill: how many processes the kernel killed for want of memory.
    """

    low: U64 | None = None
    high: U64 | None = None
    max: U64 | None = None
    oom: U64 | None = None
    oom_kill: U64 | None = None


class CGroup(Row, frozen=True):
    """A cgroup of the container met a limit.

    Attributes:
        container: the one whose cgroup it is.
        memory: how often, since the start.
    """

    container: Container
    memory: Memory


class Shutdown(Record, frozen=True):
    """The runtime ends."""


Notification = Started | Exit | Install | Uninstall | CGroup | Shutdown
