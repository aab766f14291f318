"""Runs a coroutine up to its first wait without a task, and the rest in one.

Most requests that may wait do not: a kill is one system call. A task costs an iteration of the
event loop, which takes longer than the request. (Python 3.12 has eager tasks; this is for 3.11.)
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Ended(NamedTuple):
    """The result of a coroutine that did not wait."""

    result: Any


def first_step(coroutine: Coroutine[Any, Any, T]) -> Ended | Coroutine[Any, Any, T]:
    """Run a coroutine until it ends, or waits for the first time.

    Until then it has no current task, so it must not use a timeout of asyncio.

    Returns:
        The result; or a coroutine that continues it, to be awaited by a task.

    Raises:
        Exception: what the coroutine raises.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration as ended:
        return Ended(ended.value)
    return _rest(coroutine, awaited)


async def _rest(coroutine: Coroutine[Any, Any, T], awaited: object) -> T:
    try:
        return await _continued(coroutine, awaited)
    finally:
        coroutine.close()


@types.coroutine
def _continued(coroutine: Coroutine[Any, Any, T], awaited: object) -> Generator[Any, Any, T]:
    """Pass on what `coroutine` awaits, which was `awaited` first."""
    while True:
        try:
            try:
                value = yield awaited
            except BaseException as failure:
                awaited = coroutine.throw(failure)
            else:
                awaited = coroutine.send(value)
        except StopIteration as ended:
            result: T = ended.value
            return result
