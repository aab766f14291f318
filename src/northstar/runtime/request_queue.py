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
        """Use `apply`, which gives an event to the core; it raises RefusedError."""
        self._apply = apply
        self._loop = asyncio.get_running_loop()
        self._current: dict[Container, asyncio.Future[None]] = {}
        self._waiting: dict[Container, deque[tuple[Request, asyncio.Future[None]]]] = {}

    def __len__(self) -> int:
        """Return how many containers have a request that is not answered."""
        return len(self._current)

    def submit(self, request: Request) -> asyncio.Future[None]:
        """Process a request in its turn; the future tells how it ended.

        Whoever waits for the future may be cancelled; the request goes on.
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
        """Answer the request that is going on for a container, and begin the next one."""
        self._end(container, RefusedError(error) if error is not None else None)

    def _end(self, container: Container, failure: Exception | None) -> None:
        answer = self._current.pop(container)
        if not answer.done():  # cancelled: nobody waits for it
            if failure is None:
                answer.set_result(None)
            else:
                answer.set_exception(failure)
        waiting = self._waiting.get(container)
        if waiting:
            request, answer = waiting.popleft()
            # Its turn is reserved now and comes later: the event that ended the former request may
            # have decided more, which is done first.
            self._current[container] = answer
            self._loop.call_soon(self._begin, request, answer)
        else:
            self._waiting.pop(container, None)
