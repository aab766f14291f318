"""Waiting for the exit of a container, or for one of its states."""

from __future__ import annotations

from northstar.api import ContainerState, RefusedError, Status
from northstar.api.error import StopContainerNotStarted
from northstar.api.feature import SERVICE
from northstar.client import steps
from northstar.client.errors import NotReachedError, StillRunningError, WaitTimeoutError
from northstar.client.session import ENDED, UNWANTED, Session, Watch
from northstar.client.steps import Steps
from northstar.model import Container, ExitStatus
from northstar.model.deadline import Deadline


def wait_for_exit(
    session: Session, container: Container, timeout: float | None, deadline: Deadline | None
) -> Steps[ExitStatus]:
    """Return the exit status of a container, see `Operations.wait`."""
    status = session.runs.get(container)
    if status is not None:
        return status
    with session.watching(container) as watch:
        pid = None
        if container not in session.runs:
            # If it runs, the notification of its exit comes after this answer. If it has ended
            # meanwhile, the notification came before this answer.
            if SERVICE in session.features:
                last = yield from _last_exit(watch)
                if last is not None:
                    return last
            else:
                process = (yield from steps.inspect(container)).process
                if process is None and watch.first is None:
                    raise RefusedError(StopContainerNotStarted(container))
                pid = None if process is None else process.pid

        def failed() -> bool:
            # The exit of a run is announced before the state that follows it.
            return watch.current is not None and watch.current.state in UNWANTED

        left = steps.time_left(deadline)
        yield from steps.wait_until(session, lambda: watch.first is not None or failed(), left)
        if watch.first is not None:
            return watch.first
        if watch.current is not None and failed():
            raise NotReachedError(container, "was not started", watch.current)
        assert timeout is not None
        raise StillRunningError(container, f"has not exited within {timeout:g} s", pid)


def _last_exit(watch: Watch) -> Steps[ExitStatus | None]:
    """Return the exit status of the last run; None if a container runs, or will run.

    Raises:
        RefusedError: it was never started.
    """
    status = yield from steps.status_of(watch.container)
    if watch.first is not None or status.state not in ENDED:
        return watch.first
    if status.last is None:
        raise RefusedError(StopContainerNotStarted(watch.container))
    return status.last


def wait_for_state(
    session: Session,
    container: Container,
    state: ContainerState,
    timeout: float | None,
    deadline: Deadline | None,
) -> Steps[Status]:
    """Return the status of a container in a state, see `Operations.wait_started` and `wait_ready`.

    Args:
        session: the session, which must be subscribed.
        container: the container.
        state: READY, or RUNNING, which also stands for later states with a process.
        timeout: the time of the deadline, for an error.
        deadline: the deadline.
    """
    with session.watching(container) as watch:
        run = (yield from steps.status_of(container)).run
        return (yield from _reach(session, watch, run, state, timeout, deadline, UNWANTED))


def wait_for_own_run(session: Session, watch: Watch) -> Steps[None]:
    """Wait until the run that a start of this client has begun is ready.

    Args:
        session: the session, which must be subscribed.
        watch: a watch that began before the start.
    """
    # Its states were notified since its start, so no other permission is needed.
    status = watch.current or (yield from steps.status_of(watch.container))
    yield from _reach(session, watch, status.run, ContainerState.READY, None, None, ENDED)


def _reach(
    session: Session,
    watch: Watch,
    run: int,
    state: ContainerState,
    timeout: float | None,
    deadline: Deadline | None,
    failures: frozenset[ContainerState],
) -> Steps[Status]:
    """Wait until a run, or a later one, reaches a state, or until a state of failure."""
    ready = state is ContainerState.READY

    def reached() -> bool:
        return (watch.ready_run if ready else watch.started_run) >= run

    def failed() -> bool:
        return watch.current is not None and watch.current.state in failures

    left = steps.time_left(deadline)
    yield from steps.wait_until(session, lambda: reached() or failed(), left)
    current = watch.current
    assert current is not None
    if reached():
        return current
    what = "ready" if ready else "started"
    if failed():
        raise NotReachedError(watch.container, f"is not {what}", current)
    raise WaitTimeoutError(watch.container, f"is not {what} within {timeout:g} s", current)
