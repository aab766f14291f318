"""The table of requests."""

from __future__ import annotations

import asyncio
from typing import get_args

from northstar.api import request as requests
from northstar.api.request import Request
from northstar.runtime.console.dispatch import Dispatcher, Exchange, Immediate, Task, Upload
from northstar.runtime.console.tokens import Tokens
from tests.unit.runtime.console.harness import Runtime


def test_there_is_a_route_for_each_request() -> None:
    async def routes() -> None:
        found = Dispatcher(Runtime(), Tokens()).routes
        assert set(found) == set(get_args(Request))
        assert {type(route) for route in found.values()} == {Exchange, Immediate, Task, Upload}
        assert [kind for kind, route in found.items() if isinstance(route, Upload)] == [
            requests.Install
        ]

    asyncio.run(routes())
