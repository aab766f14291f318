"""The notifications of the runtime to its subscribers."""

from __future__ import annotations

from northstar.api.shape import U64, Body, Record, Row, Wrapper
from northstar.api.status import Status
from northstar.model import Container, ExitStatus


class Started(Wrapper, frozen=True):
    """A container was started.

    Attributes:
        container: the started container.
    """

    container: Container


class Exit(Row, frozen=True):
    """A container ended. It can be started, unmounted and uninstalled again.

    Attributes:
        container: the container that ended.
        status: its exit code, or the signal that terminated it.
    """

    container: Container
    status: ExitStatus


class Install(Wrapper, frozen=True):
    """A package was installed.

    Attributes:
        container: the container in the package.
    """

    container: Container


class Uninstall(Wrapper, frozen=True):
    """A package was removed.

    Attributes:
        container: the container in the package.
    """

    container: Container


class Memory(Record, frozen=True):
    """Counters of memory.events (cgroup v2). With cgroup v1 only `oom` is set, to 1.

    Attributes:
        low: how often memory was reclaimed although usage was below `memory.low`.
        high: how often processes were throttled because usage was above `memory.high`.
        max: how often usage was about to exceed `memory.max`.
        oom: how often an allocation was about to fail.
        oom_kill: number of processes that the kernel's out-of-memory killer killed.
    """

    low: U64 | None = None
    high: U64 | None = None
    max: U64 | None = None
    oom: U64 | None = None
    oom_kill: U64 | None = None


class CGroup(Row, frozen=True):
    """A cgroup of the container reached a memory limit.

    Attributes:
        container: the container of the cgroup.
        memory: the counters since the start.
    """

    container: Container
    memory: Memory


class Shutdown(Record, frozen=True):
    """The runtime shuts down."""


class State(Row, frozen=True):
    """The observed or the requested state of a container changed.

    Attributes:
        container: the container.
        status: its status after the change.
    """

    container: Container
    status: Status


class UpdatePhase(Body, frozen=True):
    """How far an update is.

    Attributes:
        phase: `staged`: the new version is being stored. `trial`: it is started. `commit`: it has
            passed the trial. `rollback`: it has failed. At the end `committed`, `rolled_back`, or
            `refused` if the trial did not begin.
        previous: the version that is replaced.
        reason: why it has failed; empty if it has not.
    """

    phase: str
    previous: Container
    reason: str


class Update(Row, frozen=True):
    """An update has entered another phase.

    Attributes:
        container: the new version.
        update: the phase.
    """

    container: Container
    update: UpdatePhase


class Closing(Record, frozen=True):
    """The last message on an extended connection that the runtime closes because of its client.

    It is sent to every extended connection, subscribed or not: a client ignores notifications that
    it does not know, so older ones are not disturbed.

    Attributes:
        reason: what was wrong, as in the runtime's log.
    """

    reason: str


PlainNotification = Started | Exit | Install | Uninstall | CGroup | Shutdown
"""The notifications of every connection."""

Notification = PlainNotification | State | Update
"""The notifications of an extended connection."""
