"""The table of requests."""

from __future__ import annotations

import asyncio
from typing import get_args

from northstar.api import request as requests
from northstar.api.feature import EXEC, FEATURES, LOGS, SERVICE
from northstar.api.request import Request
from northstar.runtime.console.dispatch import (
    Dispatcher,
    Encoded,
    Exchange,
    Immediate,
    Task,
    Upload,
)
from northstar.runtime.console.tokens import Tokens
from tests.unit.runtime.console.harness import Runtime


def _feature(kind: type) -> str | None:
    if kind in get_args(requests.ServiceRequest):
        return SERVICE
    others: dict[type, str] = {requests.Exec: EXEC, requests.Logs: LOGS}
    return others.get(kind)


def test_there_is_a_route_for_each_request() -> None:
    async def routes() -> None:
        found = Dispatcher(Runtime(), Tokens()).routes
        # The request of a feature that this runtime does not offer has none.
        offered = {kind for kind in get_args(Request) if _feature(kind) in (None, *FEATURES)}
        assert set(found) == offered
        kinds = {type(route) for route in found.values()}
        assert kinds == {Immediate, Encoded, Task, Upload, Exchange}
        assert [kind for kind, route in found.items() if isinstance(route, Upload)] == [
            requests.Update,
            requests.Install,
        ]

    asyncio.run(routes())
