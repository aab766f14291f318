"""Plays a number of launches that are the same each time."""

from __future__ import annotations

import asyncio
import random

from tests.fuzz import reports


def test_sequences() -> None:
    assert asyncio.run(reports.run(random.Random(1), count=200, seconds=None)) == 200
