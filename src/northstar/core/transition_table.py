"""The changes of a container's state, each with the events that can cause it.

No code decides by this table. It is the source of diagram and table in docs/supervision.md, and the
tests prove that it is equal to what `step` does.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from northstar.api.status import ContainerState
from northstar.core.events import (
    DeadlineReached,
    DirectoryMissing,
    Executed,
    ImageMounted,
    ImageUnmounted,
    KillRequested,
    MountFailed,
    Notified,
    ProbeFailed,
    ProbeSucceeded,
    Released,
    RemovalFailed,
    RestartRequested,
    ShutdownBegan,
    SignalAll,
    StartFailed,
    StartRequested,
    StopAll,
    StopRequested,
    UmountFailed,
    UninstallRequested,
)


class Transition(NamedTuple):
    """A change of state.

    Attributes:
        before, after: the states.
        label: its causes, in words.
        events: the events that can cause it.
    """

    before: ContainerState
    after: ContainerState
    label: str
    events: frozenset[type]


_START: Final = frozenset((StartRequested, RestartRequested))
_AUTOMATIC: Final = frozenset((StartRequested,))
_UNINSTALL: Final = frozenset((UninstallRequested,))
_NOT_WANTED: Final = frozenset(
    # Start and restart are requests on another version.
    (StopRequested, KillRequested, ShutdownBegan, StartRequested, RestartRequested)
)
_START_FAILED: Final = frozenset(
    # A start fails when no image that it needs is in transition any more.
    (StartFailed, DirectoryMissing, MountFailed, ImageMounted, ImageUnmounted, UmountFailed)
)
_RELEASED: Final = frozenset((Released,))
_END: Final = frozenset(
    # In a shutdown the end or the late execution of one container can be the turn of another one.
    (
        *(StopRequested, RestartRequested, KillRequested, Notified),
        *(StopAll, SignalAll, Released),
    )
)


def _table() -> tuple[Transition, ...]:
    state = ContainerState
    not_wanted = "stop, kill, shutdown; start of another version"
    end = "stop, restart, kill, shutdown; STOPPING=1"
    verdicts = (
        (state.INSTALLED, "exit; not wanted or success", _RELEASED),
        (state.FAILED, "exit; failure, no restart", _RELEASED),
        (state.BACKOFF, "exit; policy or restart", _RELEASED),
    )
    rows: tuple[tuple[ContainerState, ContainerState, str, frozenset[type]], ...] = (
        (state.INSTALLED, state.WAITING, "boot", _AUTOMATIC),
        (state.INSTALLED, state.STARTING, "start, restart; boot", _START),
        (state.INSTALLED, state.REMOVING, "uninstall", _UNINSTALL),
        (state.FAILED, state.WAITING, "boot", _AUTOMATIC),
        (state.FAILED, state.STARTING, "start, restart; boot", _START),
        (state.FAILED, state.REMOVING, "uninstall", _UNINSTALL),
        (state.WAITING, state.STARTING, "start, restart; end of the wait", _START),
        (state.WAITING, state.INSTALLED, not_wanted, _NOT_WANTED),
        (state.WAITING, state.REMOVING, "uninstall", _UNINSTALL),
        (state.BACKOFF, state.STARTING, "start, restart; end of the delay", _START),
        (state.BACKOFF, state.WAITING, "end of the delay", _AUTOMATIC),
        (state.BACKOFF, state.INSTALLED, not_wanted, _NOT_WANTED),
        (state.BACKOFF, state.REMOVING, "uninstall", _UNINSTALL),
        (state.STARTING, state.RUNNING, "executed", frozenset((Executed,))),
        (state.STARTING, state.READY, "executed, no `ready`", frozenset((Executed,))),
        (state.STARTING, state.INSTALLED, "start failed, shutdown", _START_FAILED),
        (state.STARTING, state.FAILED, "start failed", _START_FAILED | _AUTOMATIC),
        (state.STARTING, state.BACKOFF, "start failed, policy", _START_FAILED | _AUTOMATIC),
        (state.RUNNING, state.READY, "READY=1; probe", frozenset((Notified, ProbeSucceeded))),
        (state.RUNNING, state.STOPPING, f"ready.timeout; {end}", _END | {DeadlineReached}),
        *((state.RUNNING, *verdict) for verdict in verdicts),
        (
            state.READY,
            state.UNHEALTHY,
            "probe failed; watchdog missed; WATCHDOG=trigger",
            frozenset((DeadlineReached, Notified, ProbeFailed)),
        ),
        (state.READY, state.STOPPING, end, _END),
        *((state.READY, *verdict) for verdict in verdicts),
        (
            state.UNHEALTHY,
            state.STOPPING,
            f"at once; with `action: none`: watchdog; {end}",
            _END | {DeadlineReached, ProbeFailed},
        ),
        (state.UNHEALTHY, state.READY, "probe", frozenset((ProbeSucceeded,))),
        *((state.UNHEALTHY, *verdict) for verdict in verdicts),
        (state.STOPPING, state.INSTALLED, "not wanted; success", _RELEASED),
        (state.STOPPING, state.FAILED, "failure, no restart", _RELEASED),
        (state.STOPPING, state.BACKOFF, "policy; restart", _RELEASED),
        (
            state.REMOVING,
            state.INSTALLED,
            "uninstall failed",
            frozenset((UmountFailed, RemovalFailed)),
        ),
    )
    return tuple(Transition(*row) for row in rows)


TRANSITIONS: Final = _table()
"""All changes of a container's state, except that it is gone after `REMOVING`."""
