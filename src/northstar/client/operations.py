"""The operations of both clients: each request, and operations that need several requests.

Each client has a method `_run` that executes the steps of any operation: one blocks, the other
awaits. The modules `stopping` and `waiting` are imported on first use: most runs of nstar need
neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from signal import SIGTERM
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from northstar.api import ContainerState, Status, request, response
from northstar.api.feature import SERVICE
from northstar.api.response import ContainerData, TokenResult
from northstar.client import steps
from northstar.client.session import KILL_TIMEOUT, Session, Stopped, StopTimeout
from northstar.client.steps import Steps
from northstar.model import Container, ExitStatus, InvalidValueError, Name

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")


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


def _operation(operation: Callable[Concatenate[Any, P], Steps[T]]) -> _Method[P, T]:
    """Make a method of a function that returns steps: the client's `_run` executes them."""

    def method(self: Any, *arguments: P.args, **options: P.kwargs) -> Any:
        return self._run(operation(self, *arguments, **options))

    functools.update_wrapper(method, operation)
    # help() and inspect.signature show the type of the result, without `Steps`.
    result = operation.__annotations__["return"].removeprefix("Steps[").removesuffix("]")
    operation.__annotations__["return"] = method.__annotations__["return"] = result
    return cast("_Method[P, T]", method)


class Operations:
    """The methods of both clients.

    A container may be given as a Container, as `name:version`, or as a name alone. A name alone
    means its only installed version (see `resolve`); it takes an additional `list` request, which
    needs the permission `list`.
    """

    _session: Session

    @property
    def features(self) -> frozenset[str]:
        """The features of the runtime, such as `service`; none if it is an older one."""
        return self._session.features

    @property
    def subscribed(self) -> bool:
        """Whether the client has subscribed to notifications."""
        return self._session.subscribed

    @_operation
    def ident(self) -> Steps[Container]:
        """Return this client's identity: its container, or `extern:0.0.0` outside of containers."""
        return (yield from steps.ask(request.Ident(), response.Ident)).container

    @_operation
    def list(self) -> Steps[tuple[Container, ...]]:
        """Return all installed containers."""
        return (yield from steps.installed())

    @_operation
    def repositories(self) -> Steps[tuple[str, ...]]:
        """Return the names of all repositories."""
        return (yield from steps.ask(request.Repositories(), response.Repositories)).names

    @_operation
    def shutdown(self) -> Steps[None]:
        """Shut the runtime down. The connection ends after the last container."""
        yield from steps.ask(request.Shutdown(), response.Shutdown)

    @_operation
    def resolve(self, *containers: Container | str) -> Steps[tuple[Container, ...]]:
        """Return containers with their versions, in this order.

        A name alone means its only installed version, as in `nstar`. One `list` request is sent if
        there is such a name, otherwise none.

        Raises:
            InvalidValueError: a text is neither a name nor `name:version`.
            NameLookupError: no version is installed, or several are.
        """
        return (yield from steps.resolved(containers))

    @_operation
    def inspect(self, container: Container | str) -> Steps[ContainerData]:
        """Return the data of a container."""
        return (yield from steps.inspect((yield from steps.resolved_one(container))))

    @_operation
    def mount(
        self, *containers: Container | str
    ) -> Steps[tuple[response.Ok | response.Failed, ...]]:
        """Mount containers; return a result for each, in this order. Failures are not raised."""
        message = request.Mount((yield from steps.resolved(containers)))
        return (yield from steps.ask(message, response.Mount)).results

    @_operation
    def umount(
        self, *containers: Container | str
    ) -> Steps[tuple[response.Ok | response.Failed, ...]]:
        """Unmount containers; return a result for each, in this order. Failures are not raised."""
        message = request.Umount((yield from steps.resolved(containers)))
        return (yield from steps.ask(message, response.Umount)).results

    @_operation
    def start(
        self,
        container: Container | str,
        init: str | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        *,
        wait: bool = False,
    ) -> Steps[None]:
        """Start a container; arguments that are given replace values of the manifest.

        Args:
            container: the container.
            init: path of a program in the container.
            arguments: of the program.
            environment: of the program.
            wait: return when the run is ready, not already when the program is executed.

        Raises:
            InvalidValueError: `arguments` is a str, whose characters would become the arguments;
                or `wait` without a subscription.
            MissingFeatureError: `wait`, and the runtime does not have the feature `service`.
            NotReachedError: `wait`, and the run ended before it was ready.
        """
        if isinstance(arguments, str | bytes):
            raise InvalidValueError(
                f"the arguments {arguments!r} are one text", hint="pass a list or a tuple of texts"
            )
        if wait:
            self._session.require(SERVICE)
            self._session.require_subscription()
        target = yield from steps.resolved_one(container)
        message = request.Start(target, init, tuple(arguments), dict(environment or {}))
        # An earlier exit is not that of the run that begins now.
        self._session.runs.pop(target, None)
        with self._session.watching(target) as watch:
            yield from steps.ask(message, response.Start)
            if wait:
                from northstar.client import waiting

                yield from waiting.wait_for_own_run(self._session, watch)

    @_operation
    def kill(self, container: Container | str, signal: int = SIGTERM) -> Steps[None]:
        """Send a signal to all processes of a container."""
        yield from steps.kill((yield from steps.resolved_one(container)), signal)

    @_operation
    def stop(
        self,
        container: Container | str,
        timeout: float | StopTimeout | None = StopTimeout.MANIFEST,
        *,
        kill_timeout: float | None = KILL_TIMEOUT,
    ) -> Steps[Stopped]:
        """Stop a container: send its stop signal, and SIGKILL if it does not end in time.

        Unlike `kill`, this returns when the container has ended. It is not started again until a
        client requests it. A container that does not run counts as stopped.

        A runtime without the feature `service` has no such request. There this sends SIGTERM and
        SIGKILL itself, and a container that does not run is refused. A client that subscribed
        waits for the notification of the exit, any other inspects the container.

        Args:
            container: the container.
            timeout: time to end by its stop signal, in seconds; None is unlimited. By default it
                is that of the manifest.
            kill_timeout: time to end by SIGKILL, in seconds; None is unlimited.

        Raises:
            RefusedError: the runtime refuses it.
            StillRunningError: it did not end by SIGKILL either.
        """
        from northstar.client import stopping

        target = yield from steps.resolved_one(container)
        return (yield from stopping.stop(self._session, target, timeout, kill_timeout))

    @_operation
    def restart(
        self, container: Container | str, *, kill_timeout: float | None = KILL_TIMEOUT
    ) -> Steps[Container]:
        """Stop a container if it runs, and start it, as one operation of the runtime.

        Returns it with its version.

        Args:
            container: the container.
            kill_timeout: time to end by SIGKILL, in seconds; None is unlimited.

        Raises:
            MissingFeatureError: the runtime does not have the feature `service`.
            NoAnswerError: it was not stopped and started in time. The runtime may still do it.
        """
        from northstar.client import stopping

        self._session.require(SERVICE)
        target = yield from steps.resolved_one(container)
        yield from stopping.restart(self._session, target, kill_timeout)
        return target

    @_operation
    def status(
        self, *containers: Container | str
    ) -> Steps[tuple[response.StatusOk | response.Failed, ...]]:
        """Return a result for each container, in this order. Failures are not raised.

        Without arguments these are all installed containers.

        Raises:
            MissingFeatureError: the runtime does not have the feature `service`.
        """
        self._session.require(SERVICE)
        return (yield from steps.statuses((yield from steps.resolved(containers))))

    @_operation
    def wait(self, container: Container | str, timeout: float | None = None) -> Steps[ExitStatus]:
        """Wait until a container exits, and return its exit status.

        The client must have subscribed: the status is part of the notification of the exit, which
        `notifications` also yields. An exit right after a `start` of this client is not missed,
        since the connection receives all notifications.

        If the container has exited already, its last exit status is returned at once, provided
        that the runtime has the feature `service`, or that this client was connected at the exit
        and has not started the container again. Any other counts as not running.

        Args:
            container: the container.
            timeout: longest wait, in seconds; None is unlimited.

        Raises:
            InvalidValueError: the client did not subscribe.
            RefusedError: the container does not run (StopContainerNotStarted), or is not installed.
            NotReachedError: the start in progress failed.
            StillRunningError: it has not exited in time. It continues to run.
        """
        from northstar.client import waiting

        self._session.require_subscription()
        deadline = steps.deadline_of(timeout)
        target = yield from steps.resolved_one(container)
        return (yield from waiting.wait_for_exit(self._session, target, timeout, deadline))

    @_operation
    def wait_started(
        self, container: Container | str, timeout: float | None = None
    ) -> Steps[Status]:
        """Wait until the payload of a container runs, and return the status.

        A container that is started, waits for others or is in backoff will be started; any other
        is an error.

        Args:
            container: the container.
            timeout: longest wait, in seconds; None is unlimited.

        Raises:
            MissingFeatureError: the runtime does not have the feature `service`.
            InvalidValueError: the client did not subscribe.
            RefusedError: the container is not installed.
            NotReachedError: it is not started, and the runtime does not start it.
            WaitTimeoutError: it is not started in time.
        """
        return (yield from self._wait_for_state(container, ContainerState.RUNNING, timeout))

    @_operation
    def wait_ready(self, container: Container | str, timeout: float | None = None) -> Steps[Status]:
        """Wait until a container is ready, and return the status. As `wait_started` otherwise."""
        return (yield from self._wait_for_state(container, ContainerState.READY, timeout))

    @_operation
    def uninstall(self, container: Container | str, wipe: bool = False) -> Steps[None]:
        """Uninstall a container; `wipe` removes its persistent data too."""
        message = request.Uninstall((yield from steps.resolved_one(container)), wipe)
        yield from steps.ask(message, response.Uninstall)

    @_operation
    def keys(self, repository: str, new: str | None = None) -> Steps[response.KeysOk]:
        """Return the key list of a repository; replace it before, if `new` is given.

        Args:
            repository: the name of the repository.
            new: the text of a list that `sextant key-list` made.

        Raises:
            MissingFeatureError: the runtime does not have the feature `keys`.
            RefusedError: the repository has no list, or the new one may not replace it.
        """
        result = (yield from steps.ask(request.Keys(repository, new), response.Keys)).result
        assert isinstance(result, response.KeysOk)
        return result

    @_operation
    def token_create(self, target: str, shared: bytes) -> Steps[bytes]:
        """Return a token that proves this client's identity to `target`.

        Raises:
            InvalidValueError: `target` is not a name.
        """
        message = request.TokenCreate(Name(target), shared)
        return (yield from steps.ask(message, response.TokenCreate)).token

    @_operation
    def token_verify(self, token: bytes, user: str, shared: bytes) -> Steps[TokenResult]:
        """Return whether a token that `user` made for this client is valid.

        Raises:
            InvalidValueError: `user` is not a name.
        """
        message = request.TokenVerify(token, Name(user), shared)
        return (yield from steps.ask(message, response.TokenVerify)).result

    def _wait_for_state(
        self, container: Container | str, state: ContainerState, timeout: float | None
    ) -> Steps[Status]:
        from northstar.client import waiting

        self._session.require(SERVICE)
        self._session.require_subscription()
        deadline = steps.deadline_of(timeout)
        target = yield from steps.resolved_one(container)
        return (yield from waiting.wait_for_state(self._session, target, state, timeout, deadline))


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
