"""Requests on containers, one after the other on each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from northstar.api import RefusedError
from northstar.api.error import Error
from northstar.core.events import Request
from northstar.model import Container


class RequestQueue:
    """Gives requests to the core: one at a time on each container, in the order of their arrival.

    A request is processed to its end even if the client that sent it disconnects.
    """

    def __init__(self, apply: Callable[[Request], object]) -> None:
        """Use `apply`, which gives an event to the core, and raises RefusedError."""
        self._apply = apply
        self._loop = asyncio.get_running_loop()
        self._current: dict[Container, asyncio.Future[None]] = {}
        self._waiting: dict[Container, deque[tuple[Request, asyncio.Future[None]]]] = {}

    def __len__(self) -> int:
        """Return the number of containers with an unanswered request."""
        return len(self._current)

    def submit(self, request: Request) -> asyncio.Future[None]:
        """Process a request after earlier ones on its container; return a future of its result.

        Cancelling the future, or a task that awaits it, does not end the request.
        """
        answer: asyncio.Future[None] = self._loop.create_future()
        container = request.container
        if container in self._current:
            self._waiting.setdefault(container, deque()).append((request, answer))
        else:
            self._begin(request, answer)
        return answer

    def _begin(self, request: Request, answer: asyncio.Future[None]) -> None:
        self._current[request.container] = answer
        try:
            self._apply(request)
        except Exception as failure:
            self._end(request.container, failure)

    def complete(self, container: Container, error: Error | None) -> None:
        """Answer the current request on a container, and begin the next one."""
        self._end(container, RefusedError(error) if error is not None else None)

    def _end(self, container: Container, failure: Exception | None) -> None:
        answer = self._current.pop(container)
        if not answer.done():  # cancelled
            if failure is None:
                answer.set_result(None)
            else:
                answer.set_exception(failure)
        waiting = self._waiting.get(container)
        if waiting:
            request, answer = waiting.popleft()
            # Reserve the container now, but begin later: the event that ended the former request
            # may have led to more actions, which are executed first.
            self._current[container] = answer
            self._loop.call_soon(self._begin, request, answer)
        else:
            self._waiting.pop(container, None)
