"""The operations of both clients: each request, and operations that need several requests.

An operation is a generator of steps. It builds requests and reads answers; a step is something that
it waits for. Each client has a method `_run` that executes the steps of any operation: one blocks,
the other awaits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from signal import SIGKILL, SIGTERM
from typing import (
    Any,
    Concatenate,
    Final,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from northstar.api import RefusedError, request, response
from northstar.api.error import InvalidContainer, StopContainerNotStarted
from northstar.api.response import ContainerData, TokenResult
from northstar.client.errors import NameLookupError, PermissionDeniedError, StillRunningError
from northstar.client.session import Session, Stopped, Watch
from northstar.model import Container, ExitStatus, InvalidValueError, Name
from northstar.model.deadline import Deadline

STOP_TIMEOUT: Final = 10.0
"""Default time that a container has to end by SIGTERM, in seconds."""

KILL_TIMEOUT: Final = 10.0
"""Default time that it has to end by SIGKILL, in seconds."""

_POLL: Final = (0.005, 0.1)
"""First and longest time between two inspects of a container that is being stopped, in seconds."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R", bound=response.Response)


class Ask(NamedTuple):
    """Send a request and wait for its answer, which is sent into the generator.

    An answer that is an error (a refusal, a missing permission) is raised in the generator.
    """

    message: request.Request
    kind: type[Any]


class Wait(NamedTuple):
    """Receive until `done` is true, the session has failed, or the time (seconds) is up."""

    done: Callable[[], bool]
    timeout: float | None


class Sleep(NamedTuple):
    """Wait for that time."""

    seconds: float


Step = Ask | Wait | Sleep
Steps = Generator[Step, Any, T]
"""A running operation; its result is a T."""


class _Method(Protocol[P, T_co]):
    """An operation as a method: the blocking client's returns its result, asyncio's is awaited."""

    @overload
    def __get__(
        self, instance: BlockingOperations, owner: type[object] | None = None
    ) -> Callable[P, T_co]: ...

    @overload
    def __get__(
        self, instance: AsyncOperations, owner: type[object] | None = None
    ) -> Callable[P, Coroutine[Any, Any, T_co]]: ...


def _operation(steps: Callable[Concatenate[Any, P], Steps[T]]) -> _Method[P, T]:
    """Make a method of a function that returns steps: the client's `_run` executes them."""

    def method(self: Any, *arguments: P.args, **options: P.kwargs) -> Any:
        return self._run(steps(self, *arguments, **options))

    functools.update_wrapper(method, steps)
    # help() and inspect.signature show the type of the result, without `Steps`.
    result = steps.__annotations__["return"].removeprefix("Steps[").removesuffix("]")
    steps.__annotations__["return"] = method.__annotations__["return"] = result
    return cast("_Method[P, T]", method)


class Operations:
    """The methods of both clients.

    A container may be given as a Container, as `name:version`, or as a name alone. A name alone
    means its only installed version (see `resolve`); it takes an additional `list` request, which
    needs the permission `list`.
    """

    _session: Session

    @_operation
    def ident(self) -> Steps[Container]:
        """Return this client's identity: its container, or `extern:0.0.0` outside of containers."""
        return (yield from _ask(request.Ident(), response.Ident)).container

    @_operation
    def list(self) -> Steps[tuple[Container, ...]]:
        """Return all installed containers."""
        return (yield from _installed())

    @_operation
    def repositories(self) -> Steps[tuple[str, ...]]:
        """Return the names of all repositories."""
        return (yield from _ask(request.Repositories(), response.Repositories)).names

    @_operation
    def shutdown(self) -> Steps[None]:
        """Shut the runtime down. The connection ends after the last container."""
        yield from _ask(request.Shutdown(), response.Shutdown)

    @_operation
    def resolve(self, *containers: Container | str) -> Steps[tuple[Container, ...]]:
        """Return containers with their versions, in this order.

        A name alone means its only installed version, as in `nstar`. One `list` request is sent if
        there is such a name, otherwise none.

        Raises:
            InvalidValueError: a text is neither a name nor `name:version`.
            NameLookupError: no version is installed, or several are.
        """
        return (yield from _resolved(containers))

    @_operation
    def inspect(self, container: Container | str) -> Steps[ContainerData]:
        """Return the data of a container."""
        return (yield from _inspect((yield from _resolved_one(container))))

    @_operation
    def mount(
        self, *containers: Container | str
    ) -> Steps[tuple[response.Ok | response.Failed, ...]]:
        """Mount containers; return a result for each, in this order. Failures are not raised."""
        message = request.Mount((yield from _resolved(containers)))
        return (yield from _ask(message, response.Mount)).results

    @_operation
    def umount(
        self, *containers: Container | str
    ) -> Steps[tuple[response.Ok | response.Failed, ...]]:
        """Unmount containers; return a result for each, in this order. Failures are not raised."""
        message = request.Umount((yield from _resolved(containers)))
        return (yield from _ask(message, response.Umount)).results

    @_operation
    def start(
        self,
        container: Container | str,
        init: str | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Steps[None]:
        """Start a container; arguments that are given replace values of the manifest.

        Args:
            container: the container.
            init: path of a program in the container.
            arguments: of the program.
            environment: of the program.

        Raises:
            InvalidValueError: `arguments` is a str, whose characters would become the arguments.
        """
        if isinstance(arguments, str | bytes):
            raise InvalidValueError(
                f"the arguments {arguments!r} are one text", hint="pass a list or a tuple of texts"
            )
        target = yield from _resolved_one(container)
        message = request.Start(target, init, tuple(arguments), dict(environment or {}))
        # An earlier exit is not that of the run that begins now.
        self._session.runs.pop(target, None)
        yield from _ask(message, response.Start)

    @_operation
    def kill(self, container: Container | str, signal: int = SIGTERM) -> Steps[None]:
        """Send a signal to all processes of a container."""
        yield from _kill((yield from _resolved_one(container)), signal)

    @_operation
    def stop(
        self,
        container: Container | str,
        timeout: float | None = STOP_TIMEOUT,
        *,
        kill_timeout: float | None = KILL_TIMEOUT,
    ) -> Steps[Stopped]:
        """Send SIGTERM to a container, and SIGKILL if it does not end in time.

        Unlike `kill`, this returns when the container has ended. A client that subscribed waits for
        the notification of the exit, which contains the exit status and which `notifications` also
        yields. Without a subscription the client inspects the container until it has ended.

        Args:
            container: the container.
            timeout: time to end by SIGTERM, in seconds; None is unlimited.
            kill_timeout: time to end by SIGKILL, in seconds; None is unlimited.

        Raises:
            RefusedError: the container does not run.
            StillRunningError: it did not end by SIGKILL either.
        """
        target = yield from _resolved_one(container)
        with self._session.watching(target) as watch:
            first = None if self._session.subscribed else (yield from _inspect(target)).process
            yield from _kill(target, SIGTERM)
            if (yield from self._wait_for_end(watch, first, timeout)):
                return Stopped(False, watch.status)
            killed = yield from _kill_if_running(target)
            if not (yield from self._wait_for_end(watch, first, kill_timeout)):
                yield from _raise_if_running(target, kill_timeout)
            return Stopped(killed, watch.status)

    @_operation
    def wait(self, container: Container | str, timeout: float | None = None) -> Steps[ExitStatus]:
        """Wait until a container exits, and return its exit status.

        The client must have subscribed: the status is part of the notification of the exit, which
        `notifications` also yields. An exit right after a `start` of this client is not missed,
        since the connection receives all notifications.

        If the container has exited already, its last exit status is returned at once, provided
        that this client was connected at the exit and has not started the container again. After
        an exit before the connection the container counts as not running.

        Args:
            container: the container.
            timeout: longest wait, in seconds; None is unlimited.

        Raises:
            InvalidValueError: the client did not subscribe.
            RefusedError: the container does not run (StopContainerNotStarted), or is not installed.
            StillRunningError: it has not exited in time. It continues to run.
        """
        if not self._session.subscribed:
            raise InvalidValueError(
                "this client did not subscribe to notifications, which contain the exit status",
                hint="connect with subscribe=True",
            )
        deadline = _deadline(timeout)
        target = yield from _resolved_one(container)
        status = self._session.runs.get(target)
        if status is not None:
            return status
        with self._session.watching(target) as watch:
            process = None
            if target not in self._session.runs:
                # If it runs, the notification of its exit comes after this answer. If it has
                # ended meanwhile, the notification came before this answer.
                process = (yield from _inspect(target)).process
                if process is None and watch.first is None:
                    raise RefusedError(StopContainerNotStarted(target))
            yield from self._wait_until(lambda: watch.first is not None, _left(deadline))
            if watch.first is None:
                assert timeout is not None
                pid = None if process is None else process.pid
                raise StillRunningError(target, f"has not exited within {timeout:g} s", pid)
            return watch.first

    @_operation
    def uninstall(self, container: Container | str, wipe: bool = False) -> Steps[None]:
        """Uninstall a container; `wipe` removes its persistent data too."""
        message = request.Uninstall((yield from _resolved_one(container)), wipe)
        yield from _ask(message, response.Uninstall)

    @_operation
    def token_create(self, target: str, shared: bytes) -> Steps[bytes]:
        """Return a token that proves this client's identity to `target`.

        Raises:
            InvalidValueError: `target` is not a name.
        """
        message = request.TokenCreate(Name(target), shared)
        return (yield from _ask(message, response.TokenCreate)).token

    @_operation
    def token_verify(self, token: bytes, user: str, shared: bytes) -> Steps[TokenResult]:
        """Return whether a token that `user` made for this client is valid.

        Raises:
            InvalidValueError: `user` is not a name.
        """
        message = request.TokenVerify(token, Name(user), shared)
        return (yield from _ask(message, response.TokenVerify)).result

    def _wait_for_end(
        self, watch: Watch, first: response.Process | None, timeout: float | None
    ) -> Steps[bool]:
        """Wait until a container has ended, by notifications or inspects; False after `timeout`."""
        if self._session.subscribed:
            return (yield from self._wait_until(lambda: watch.ended, timeout))
        deadline = _deadline(timeout)
        pause, longest = _POLL
        while not (yield from _has_ended(watch.container, first)):
            if deadline is not None and deadline.passed():
                return False
            left = _left(deadline)
            yield Sleep(pause if left is None else min(pause, left))
            pause = min(2 * pause, longest)
        return True

    def _wait_until(self, done: Callable[[], bool], timeout: float | None) -> Steps[bool]:
        """Wait until `done`; return False after the timeout.

        Raises:
            NorthstarError: the connection ended before.
        """
        yield Wait(done, timeout)
        if not done() and self._session.error is not None:
            raise self._session.error
        return done()


class BlockingOperations(Operations):
    """The methods of the blocking client."""

    def _run(self, steps: Steps[T]) -> T:
        """Execute the steps of an operation and return its result."""
        raise NotImplementedError


class AsyncOperations(Operations):
    """The methods of the asyncio client, which are awaited."""

    async def _run(self, steps: Steps[T]) -> T:
        """Execute the steps of an operation and return its result."""
        raise NotImplementedError


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


def data_in(answer: response.Inspect) -> ContainerData:
    """Return the data of a container from a successful answer."""
    assert isinstance(answer.result, response.InspectOk)
    return answer.result.data


def _ask(message: request.Request, kind: type[R]) -> Steps[R]:
    answer = yield Ask(message, kind)
    assert isinstance(answer, kind)
    return answer


def _installed() -> Steps[tuple[Container, ...]]:
    return (yield from _ask(request.List(), response.List)).containers


def _inspect(container: Container) -> Steps[ContainerData]:
    return data_in((yield from _ask(request.Inspect(container), response.Inspect)))


def _kill(container: Container, signal: int) -> Steps[None]:
    yield from _ask(request.Kill(container, int(signal)), response.Kill)


def _kill_if_running(container: Container) -> Steps[bool]:
    """Send SIGKILL; return False if the container has ended already."""
    try:
        yield from _kill(container, SIGKILL)
    except RefusedError as refusal:
        if isinstance(refusal.error, StopContainerNotStarted | InvalidContainer):
            return False
        raise
    return True


def _raise_if_running(container: Container, timeout: float | None) -> Steps[None]:
    """Raise StillRunningError if a container still runs after SIGKILL; it names the process.

    If the container has ended and only its notification is missing, nothing is raised.
    """
    pid = None
    try:
        process = (yield from _inspect(container)).process
        if process is None:
            return
        pid = process.pid
    except RefusedError:
        return  # an uninstalled container has ended as well
    except PermissionDeniedError:
        pass  # the process cannot be named
    held = "its processes" if pid is None else f"its process {pid}"
    raise StillRunningError(
        container,
        f"has not ended within {timeout:g} s of SIGKILL: the kernel still holds {held}",
        pid,
        hint="check for a frozen cgroup, or a file system that does not respond",
    )


def _has_ended(container: Container, first: response.Process | None) -> Steps[bool]:
    """Return whether the process that an earlier inspect returned has ended."""
    if first is None:
        return True
    try:
        now = (yield from _inspect(container)).process
    except RefusedError:
        return True  # an uninstalled container has ended as well
    return now is None or now.pid != first.pid or now.uptime_ns < first.uptime_ns


def _resolved_one(container: Container | str) -> Steps[Container]:
    [found] = yield from _resolved((container,))
    return found


def _resolved(containers: Iterable[Container | str]) -> Steps[tuple[Container, ...]]:
    """Return containers with their versions: see `Operations.resolve`."""
    named = [container_or_name(container) for container in containers]
    names = [one for one in named if not isinstance(one, Container)]
    if not names:
        return tuple(one for one in named if isinstance(one, Container))
    try:
        installed = yield from _installed()
    except PermissionDeniedError as error:
        raise PermissionDeniedError(
            error.request,
            purpose=f"which looks up the version of {names[0]}",
            hint=f"write it as {names[0]}:VERSION",
        ) from None
    return tuple(
        one if isinstance(one, Container) else _only_version(one, installed) for one in named
    )


def _only_version(name: Name, installed: Iterable[Container]) -> Container:
    versions = tuple(sorted(container for container in installed if container.name == name))
    if len(versions) != 1:
        raise NameLookupError(name, versions)
    return versions[0]


def _deadline(timeout: float | None) -> Deadline | None:
    return None if timeout is None else Deadline(timeout)


def _left(deadline: Deadline | None) -> float | None:
    return None if deadline is None else deadline.left()
