"""What an operation of a client is made of: steps, and sequences of them that several use.

An operation is a generator of steps. It builds requests and reads answers; a step is something that
it waits for. Each client executes the steps of any operation: one blocks, the other awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable
from signal import SIGKILL
from typing import Any, NamedTuple, TypeVar

from northstar.api import RefusedError, Status, request, response
from northstar.api.error import InvalidContainer, StopContainerNotStarted
from northstar.api.response import ContainerData
from northstar.client.errors import NameLookupError, PermissionDeniedError, StillRunningError
from northstar.client.session import Session
from northstar.model import Container, Name
from northstar.model.deadline import Deadline

T = TypeVar("T")
R = TypeVar("R", bound=response.Response)


class Ask(NamedTuple):
    """Send a request and wait for its answer, which is sent into the generator.

    An answer that is an error (a refusal, a missing permission) is raised in the generator.
    """

    message: request.Request
    kind: type[Any]


class Send(NamedTuple):
    """Send a request without waiting for its answer; the call is sent into the generator."""

    message: request.Request


class Wait(NamedTuple):
    """Receive until `done` is true, the session has failed, or the time (seconds) is up."""

    done: Callable[[], bool]
    timeout: float | None


class Sleep(NamedTuple):
    """Wait for that time."""

    seconds: float


Step = Ask | Send | Wait | Sleep
Steps = Generator[Step, Any, T]
"""A running operation; its result is a T."""


def container_or_name(container: Container | str) -> Container | Name:
    """Return a Container, or a Name if no version is given.

    Raises:
        InvalidValueError: a text is neither a name nor `name:version`.
    """
    if isinstance(container, Container):
        return container
    return Container.parse(container) if ":" in container else Name(container)


def container_in(answer: response.Install) -> Container:
    """Return the installed container from a successful answer."""
    assert isinstance(answer.result, response.Ok)
    return answer.result.container


def versions_in(answer: response.Update) -> response.UpdateOk:
    """Return both versions from a successful answer."""
    assert isinstance(answer.result, response.UpdateOk)
    return answer.result


def data_in(answer: response.Inspect) -> ContainerData:
    """Return the data of a container from a successful answer."""
    assert isinstance(answer.result, response.InspectOk)
    return answer.result.data


def ask(message: request.Request, kind: type[R]) -> Steps[R]:
    """Return the answer to a request."""
    answer = yield Ask(message, kind)
    assert isinstance(answer, kind)
    return answer


def ask_within(message: request.Request, kind: type[R], timeout: float | None) -> Steps[R | None]:
    """Return the answer; None if it does not come in `timeout` seconds (None: unlimited).

    It is for requests whose answer takes longer than the client's timeout allows.
    """
    call = yield Send(message)
    yield Wait(lambda: call.done, timeout)
    answer: R | None = call.result(kind) if call.done else None
    return answer


def wait_until(session: Session, done: Callable[[], bool], timeout: float | None) -> Steps[bool]:
    """Wait until `done`; return False after the timeout.

    Raises:
        NorthstarError: the connection ended before.
    """
    yield Wait(done, timeout)
    if not done() and session.error is not None:
        raise session.error
    return done()


def installed() -> Steps[tuple[Container, ...]]:
    """Return all installed containers."""
    return (yield from ask(request.List(), response.List)).containers


def inspect(container: Container) -> Steps[ContainerData]:
    """Return the data of a container."""
    return data_in((yield from ask(request.Inspect(container), response.Inspect)))


def statuses(
    containers: tuple[Container, ...],
) -> Steps[tuple[response.StatusOk | response.Failed, ...]]:
    """Return the status of containers; of all if there are none."""
    return (yield from ask(request.Status(containers), response.Status)).results


def status_of(container: Container) -> Steps[Status]:
    """Return the status of one container.

    Raises:
        RefusedError: the container is not installed.
    """
    [result] = yield from statuses((container,))
    if isinstance(result, response.Failed):
        raise RefusedError(result.error)
    return result.status


def kill(container: Container, signal: int) -> Steps[None]:
    """Send a signal to a container."""
    yield from ask(request.Kill(container, int(signal)), response.Kill)


def kill_if_running(container: Container) -> Steps[bool]:
    """Send SIGKILL; return False if the container has ended already."""
    try:
        yield from kill(container, SIGKILL)
    except RefusedError as refusal:
        if isinstance(refusal.error, StopContainerNotStarted | InvalidContainer):
            return False
        raise
    return True


def raise_if_running(container: Container, timeout: float | None) -> Steps[None]:
    """Raise StillRunningError if a container still runs after SIGKILL; it names the process.

    If the container has ended and only its notification is missing, nothing is raised.
    """
    pid = None
    try:
        process = (yield from inspect(container)).process
        if process is None:
            return
        pid = process.pid
    except RefusedError:
        return  # an uninstalled container has ended as well
    except PermissionDeniedError:
        pass  # the process cannot be named
    raise held_error(container, timeout, pid)


def held_error(container: Container, timeout: float | None, pid: int | None) -> StillRunningError:
    """Return the error for a container that has not ended by SIGKILL in time."""
    held = "its processes" if pid is None else f"its process {pid}"
    return StillRunningError(
        container,
        f"has not ended within {timeout:g} s of SIGKILL: the kernel still holds {held}",
        pid,
        hint="check for a frozen cgroup, or a file system that does not respond",
    )


def has_ended(container: Container, first: response.Process | None) -> Steps[bool]:
    """Return whether the process that an earlier inspect returned has ended."""
    if first is None:
        return True
    try:
        now = (yield from inspect(container)).process
    except RefusedError:
        return True  # an uninstalled container has ended as well
    return now is None or now.pid != first.pid or now.uptime_ns < first.uptime_ns


def resolved_one(container: Container | str) -> Steps[Container]:
    """Return a container with its version."""
    [found] = yield from resolved((container,))
    return found


def resolved(containers: Iterable[Container | str]) -> Steps[tuple[Container, ...]]:
    """Return containers with their versions: see `Operations.resolve`."""
    named = [container_or_name(container) for container in containers]
    names = [one for one in named if not isinstance(one, Container)]
    if not names:
        return tuple(one for one in named if isinstance(one, Container))
    try:
        found = yield from installed()
    except PermissionDeniedError as error:
        raise PermissionDeniedError(
            error.request,
            purpose=f"which looks up the version of {names[0]}",
            hint=f"write it as {names[0]}:VERSION",
        ) from None
    return tuple(one if isinstance(one, Container) else _only_version(one, found) for one in named)


def _only_version(name: Name, installed: Collection[Container]) -> Container:
    versions = tuple(sorted(container for container in installed if container.name == name))
    if len(versions) != 1:
        raise NameLookupError(name, versions, {container.name for container in installed})
    return versions[0]


def deadline_of(timeout: float | None) -> Deadline | None:
    """Return the deadline of a timeout; None is unlimited."""
    return None if timeout is None else Deadline(timeout)


def time_left(deadline: Deadline | None) -> float | None:
    """Return the seconds until a deadline; None is unlimited."""
    return None if deadline is None else deadline.left()
