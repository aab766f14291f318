"""The verdict: what follows the end of a run. One pure function."""

from __future__ import annotations

from typing import Final

import msgspec

from northstar.api.status import ContainerState, Wanted
from northstar.core.values import Deferred, Entry
from northstar.manifest import Autostart, Restart, RestartPolicy
from northstar.model import Exited, ExitStatus, signal_name
from northstar.model.units import format_nanoseconds

_EXPONENT_MAX: Final = 63
"""Larger exponents cannot matter: 2**63 ns are more than any longest delay."""

STOPPED: Final = "stopped"


class End(msgspec.Struct, frozen=True):
    """How a run ended.

    Attributes:
        reason: in words.
        status: its exit status; None if it could not be started.
        failed: it was stopped as faulty, or could not be started: no exit code makes it a success.
        heard: a client receives the failure of this start, so nothing is retried.
    """

    reason: str
    status: ExitStatus | None = None
    failed: bool = False
    heard: bool = False

    @property
    def is_failure(self) -> bool:
        """Whether it was anything but an exit with code 0."""
        return self.failed or self.status != Exited(0)


class Verdict(msgspec.Struct, frozen=True):
    """What follows the end of a run.

    Attributes:
        state: the next state: installed, failed or backoff.
        wanted: whether the container is still wanted.
        reason: of this state.
        start: time of the next start, in ns of CLOCK_MONOTONIC; None without one.
        ends_runtime: the container is critical, and the runtime ends with an error.
    """

    state: ContainerState
    wanted: Wanted
    reason: str
    start: int | None = None
    ends_runtime: bool = False


def verdict(entry: Entry, end: End, now: int, *, shutdown: bool, trial: bool = False) -> Verdict:
    """Decide what follows the end of a run.

    The first case that applies decides. A run is a success if it exits with code 0; with the policy
    `always` no run is.

    1. The shutdown has begun, or the container is not wanted any more: installed.
    2. A client waits for its restart: it starts at once.
    3. A client receives the failure of its own start request, the policy is `never`, or the run is
       a success: not wanted. Installed after code 0, else failed.
    4. `limit` restarts within the last `interval` are used up: not wanted, failed.
    5. Back-off.

    A critical container with a policy ends the runtime in case 4, and in case 3 after a failure
    that no client receives. Without a policy it does so at any failure, except of a start that a
    client requested and of a run that a stop or restart request has ended.

    Args:
        entry: the container: its manifest, what is wanted, deferred requests, and its history.
        end: how the run ended.
        now: ns of CLOCK_MONOTONIC.
        shutdown: the shutdown has begun.
        trial: an update tries the container: nothing is retried, as with the policy `never`.
    """
    restart = entry.service.restart
    if shutdown or entry.wanted is Wanted.DOWN:
        # A policy restarts what fails by itself: what was ended on request has not failed.
        critical = restart is None and _ends_runtime(entry, end) and not shutdown
        reason = STOPPED if end.status is not None else end.reason
        return Verdict(ContainerState.INSTALLED, Wanted.DOWN, reason, ends_runtime=critical)
    if Deferred.RESTART in entry.deferred and not end.heard:
        return Verdict(ContainerState.BACKOFF, Wanted.UP, "restart requested", now)
    policy = RestartPolicy.NEVER if restart is None else restart.policy
    success = not end.is_failure and policy is not RestartPolicy.ALWAYS
    if restart is None or trial or end.heard or policy is RestartPolicy.NEVER or success:
        state = ContainerState.FAILED if end.is_failure else ContainerState.INSTALLED
        return Verdict(state, Wanted.DOWN, end.reason, ends_runtime=_ends_runtime(entry, end))
    if restart.limit is not None and len(recent(entry, now)) >= restart.limit:
        assert restart.interval is not None
        within = format_nanoseconds(restart.interval)
        reason = f"{end.reason}, {restart.limit} restarts within {within}"
        critical = entry.manifest.autostart is Autostart.CRITICAL
        return Verdict(ContainerState.FAILED, Wanted.DOWN, reason, ends_runtime=critical)
    start = now + delay(restart, entry.history.in_a_row)
    return Verdict(ContainerState.BACKOFF, Wanted.UP, end.reason, start)


def _ends_runtime(entry: Entry, end: End) -> bool:
    critical = entry.manifest.autostart is Autostart.CRITICAL
    return critical and end.is_failure and not end.heard and not entry.deferred


def delay(restart: Restart, number: int) -> int:
    """Return the ns before the restart with this number in a row, counted from 0."""
    factor: int = restart.factor ** min(number, _EXPONENT_MAX)
    return min(restart.max_delay, restart.delay * factor)


def recent(entry: Entry, now: int) -> tuple[int, ...]:
    """Return the times of the automatic restarts within the last `interval`."""
    restart = entry.service.restart
    if restart is None or restart.interval is None:
        return ()
    return tuple(when for when in entry.history.recent if now - when < restart.interval)


def exit_reason(status: ExitStatus, *, oom: bool) -> str:
    """Describe an exit: `exit 1`, `SIGSEGV`, or `oom`."""
    if oom:
        return "oom"
    return f"exit {status.code}" if isinstance(status, Exited) else signal_name(status.signal)
