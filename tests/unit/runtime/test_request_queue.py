"""Requests on containers: one at a time on each, and those that are answered later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from northstar.api import RefusedError, error
from northstar.core import Deferred, events
from northstar.core.events import Request
from northstar.model import Container
from northstar.runtime.request_queue import RequestQueue

APP = Container.parse("app:1.0.0")
OTHER = Container.parse("other:1.0.0")
MOUNT = events.MountRequested(APP)
KILL = events.KillRequested(APP, 9)
STOP = events.StopRequested(APP)
RESTART = events.RestartRequested(APP)


class Queue(RequestQueue):
    """A queue that records the requests that begin."""

    def __init__(self) -> None:
        super().__init__(self._record)
        self.begun: list[Request] = []

    def _record(self, request: Request) -> None:
        self.begun.append(request)


def run(test: Callable[[Queue], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test(Queue())

    asyncio.run(limited())


def test_a_deferred_request_does_not_hold_up_the_next_one() -> None:
    async def test(queue: Queue) -> None:
        stop = queue.submit(STOP)
        kill = queue.submit(KILL)
        assert queue.begun == [STOP]
        queue.defer(APP, Deferred.STOP)
        await asyncio.sleep(0)
        assert queue.begun == [STOP, KILL]
        queue.complete(APP, None)
        assert await kill is False
        assert not stop.done()
        assert len(queue) == 0
        queue.answer(APP, Deferred.STOP, None, killed=True)
        assert await stop is True

    run(test)


def test_all_deferred_requests_of_a_kind_are_answered() -> None:
    async def test(queue: Queue) -> None:
        answers = []
        for request, kind in ((STOP, Deferred.STOP), (STOP, Deferred.STOP)):
            answers.append(queue.submit(request))
            queue.defer(APP, kind)
        restart = queue.submit(RESTART)
        queue.defer(APP, Deferred.RESTART)
        queue.answer(OTHER, Deferred.STOP, None, killed=False)
        queue.answer(APP, Deferred.STOP, None, killed=False)
        assert [await answer for answer in answers] == [False, False]
        queue.answer(APP, Deferred.RESTART, error.Unexpected("why"), killed=False)
        with pytest.raises(RefusedError, match="why"):
            await restart
        queue.answer(APP, Deferred.RESTART, None, killed=False)

    run(test)


def test_a_deferred_request_of_a_client_that_is_gone() -> None:
    async def test(queue: Queue) -> None:
        stop = queue.submit(STOP)
        queue.defer(APP, Deferred.STOP)
        stop.cancel()
        queue.answer(APP, Deferred.STOP, None, killed=False)
        assert stop.cancelled()

    run(test)


def test_requests_on_a_container_begin_in_order() -> None:
    async def test(queue: Queue) -> None:
        first, second = queue.submit(MOUNT), queue.submit(KILL)
        other = queue.submit(events.MountRequested(OTHER))
        assert queue.begun == [MOUNT, events.MountRequested(OTHER)]
        queue.complete(APP, error.Unexpected("why"))
        with pytest.raises(RefusedError):
            await first
        await asyncio.sleep(0)
        assert queue.begun[-1] == KILL
        queue.complete(APP, None)
        queue.complete(OTHER, None)
        await asyncio.gather(second, other)
        assert len(queue) == 0

    run(test)
