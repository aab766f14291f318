"""Requests on containers, one after the other on each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from northstar.api import RefusedError
from northstar.api.error import Error
from northstar.core import Deferred
from northstar.core.events import Request
from northstar.model import Container

Result = asyncio.Future[bool]
"""Of a request: whether SIGKILL was needed, which only a stop reports."""


class RequestQueue:
    """Gives requests to the core: one at a time on each container, in the order of their arrival.

    A request is processed to its end even if the client that sent it disconnects. A deferred one
    does not hold up those after it.
    """

    def __init__(self, apply: Callable[[Request], object]) -> None:
        """Use `apply`, which gives an event to the core, and raises RefusedError."""
        self._apply = apply
        self._loop = asyncio.get_running_loop()
        self._current: dict[Container, Result] = {}
        self._deferred: dict[tuple[Container, Deferred], list[Result]] = {}
        self._waiting: dict[Container, deque[tuple[Request, Result]]] = {}

    def __len__(self) -> int:
        """Return the number of containers with an unanswered request."""
        return len(self._current)

    def submit(self, request: Request) -> Result:
        """Process a request after earlier ones on its container; return a future of its result.

        Cancelling the future, or a task that awaits it, does not end the request.
        """
        answer: Result = self._loop.create_future()
        container = request.container
        if container in self._current:
            self._waiting.setdefault(container, deque()).append((request, answer))
        else:
            self._begin(request, answer)
        return answer

    def _begin(self, request: Request, answer: Result) -> None:
        self._current[request.container] = answer
        try:
            self._apply(request)
        except Exception as failure:
            self._end(request.container, failure)

    def complete(self, container: Container, error: Error | None) -> None:
        """Answer the current request on a container, and begin the next one."""
        self._end(container, RefusedError(error) if error is not None else None)

    def defer(self, container: Container, request: Deferred) -> None:
        """Keep the current request on a container for `answer`, and begin the next one."""
        answer = self._current.pop(container)
        self._deferred.setdefault((container, request), []).append(answer)
        self._begin_next(container)

    def answer(
        self, container: Container, request: Deferred, error: Error | None, *, killed: bool
    ) -> None:
        """Answer the deferred requests of a kind on a container."""
        failure = RefusedError(error) if error is not None else None
        for answer in self._deferred.pop((container, request), ()):
            _resolve(answer, failure, killed=killed)

    def _end(self, container: Container, failure: Exception | None) -> None:
        _resolve(self._current.pop(container), failure)
        self._begin_next(container)

    def _begin_next(self, container: Container) -> None:
        waiting = self._waiting.get(container)
        if waiting:
            request, answer = waiting.popleft()
            # Reserve the container now, but begin later: the event that ended the former request
            # may have led to more actions, which are executed first.
            self._current[container] = answer
            self._loop.call_soon(self._begin, request, answer)
        else:
            self._waiting.pop(container, None)


def _resolve(answer: Result, failure: Exception | None, *, killed: bool = False) -> None:
    if answer.done():  # cancelled
        return
    if failure is None:
        answer.set_result(killed)
    else:
        answer.set_exception(failure)
