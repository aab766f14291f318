"""Stopping and restarting a container, by requests of the runtime or by signals."""

from __future__ import annotations

from signal import SIGTERM
from typing import Any, Final

from northstar.api import RefusedError, request, response
from northstar.api.feature import SERVICE
from northstar.client import steps
from northstar.client.errors import NoAnswerError, PermissionDeniedError
from northstar.client.session import (
    STOP_TIMEOUT,
    TIMEOUT,
    Session,
    Stopped,
    StopTimeout,
    Watch,
)
from northstar.client.steps import Sleep, Steps
from northstar.model import Container
from northstar.model.units import parse_duration

_U64_MAX: Final = 2**64 - 1

_POLL: Final = (0.005, 0.1)
"""First and longest time between two inspects of a container that is being stopped, in seconds."""


def stop(
    session: Session,
    container: Container,
    timeout: float | StopTimeout | None,
    kill_timeout: float | None,
) -> Steps[Stopped]:
    """Stop a container, see `Operations.stop`."""
    if SERVICE in session.features:
        return (yield from _stop_by_request(session, container, timeout, kill_timeout))
    seconds = STOP_TIMEOUT if isinstance(timeout, StopTimeout) else timeout
    return (yield from _stop_by_signals(session, container, seconds, kill_timeout))


def restart(session: Session, container: Container, kill_timeout: float | None) -> Steps[None]:
    """Restart a container, see `Operations.restart`."""
    limit, _ = yield from _stop_limit(container, StopTimeout.MANIFEST, kill_timeout)
    if limit is not None:
        limit += TIMEOUT
    # An earlier exit is not that of the run that begins now.
    session.runs.pop(container, None)
    answer = yield from steps.ask_within(request.Restart(container), response.Restart, limit)
    if answer is None:
        raise NoAnswerError(
            f"{container} has not been restarted within {limit:g} s",
            hint="the runtime may still be stopping or starting it",
        )


def _stop_by_request(
    session: Session,
    container: Container,
    timeout: float | StopTimeout | None,
    kill_timeout: float | None,
) -> Steps[Stopped]:
    limit, pid = yield from _stop_limit(container, timeout, kill_timeout)
    message = request.Stop(container, _nanoseconds(timeout))
    with session.watching(container) as watch:
        answer = yield from steps.ask_within(message, response.Stop, limit)
        if answer is None:
            assert kill_timeout is not None
            raise steps.held_error(container, kill_timeout, pid)
        assert isinstance(answer.result, response.StopOk)
        return Stopped(answer.result.killed, watch.status)


def _nanoseconds(timeout: float | StopTimeout | None) -> int | None:
    """Return a timeout in the form of a stop request."""
    if isinstance(timeout, StopTimeout):
        return None
    if timeout is None or timeout * 1e9 >= _U64_MAX:
        return _U64_MAX
    return max(round(timeout * 1e9), 0)


def _stop_limit(
    container: Container, timeout: float | StopTimeout | None, kill_timeout: float | None
) -> Steps[tuple[float | None, int | None]]:
    """Return the longest time until a stop is answered, in seconds, and the container's process.

    The answer to a stop comes after the exit, and no other request of this connection is answered
    before it: so both must be known beforehand. None stands for unlimited, or unknown.
    """
    pid = None
    seconds = timeout
    try:
        data = yield from steps.inspect(container)
    except (RefusedError, PermissionDeniedError):
        pass
    else:
        pid = None if data.process is None else data.process.pid
        if isinstance(seconds, StopTimeout):
            seconds = _manifest_timeout(data.manifest)
    if seconds is None or isinstance(seconds, StopTimeout) or kill_timeout is None:
        return None, pid
    return seconds + kill_timeout, pid


def _manifest_timeout(manifest: dict[str, Any]) -> float:
    stop = (manifest.get("service") or {}).get("stop") or {}
    if "timeout" not in stop:
        return STOP_TIMEOUT
    return parse_duration(stop["timeout"])


def _stop_by_signals(
    session: Session, container: Container, timeout: float | None, kill_timeout: float | None
) -> Steps[Stopped]:
    with session.watching(container) as watch:
        first = None if session.subscribed else (yield from steps.inspect(container)).process
        yield from steps.kill(container, SIGTERM)
        if (yield from _wait_for_end(session, watch, first, timeout)):
            return Stopped(False, watch.status)
        killed = yield from steps.kill_if_running(container)
        if not (yield from _wait_for_end(session, watch, first, kill_timeout)):
            yield from steps.raise_if_running(container, kill_timeout)
        return Stopped(killed, watch.status)


def _wait_for_end(
    session: Session, watch: Watch, first: response.Process | None, timeout: float | None
) -> Steps[bool]:
    """Wait until a container has ended, by notifications or inspects; False after `timeout`."""
    if session.subscribed:
        return (yield from steps.wait_until(session, lambda: watch.ended, timeout))
    deadline = steps.deadline_of(timeout)
    pause, longest = _POLL
    while not (yield from steps.has_ended(watch.container, first)):
        if deadline is not None and deadline.passed():
            return False
        left = steps.time_left(deadline)
        yield Sleep(pause if left is None else min(pause, left))
        pause = min(2 * pause, longest)
    return True
