"""A short soak with a fixed seed; `python -m soak` runs a long one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from soak import recorded
from soak.plan import Plan
from soak.replay import Replay
from soak.soak import Soak
from tests.system.conftest import payload
from tests.system.harness import IN_VM, PATIENCE

__all__ = ["payload"]  # a fixture of the system tests

pytestmark = [pytest.mark.root, pytest.mark.vm]


def test_random_requests_and_faults_are_answered_as_the_model_allows(
    tmp_path: Path, payload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home := tmp_path / "r").mkdir()
    operations = 200 if IN_VM else 400
    plan = Plan(
        1,
        operations,
        clients=4,
        faults=0.05,
        restarts=1,
        round=operations // 2,
        stall=4 * PATIENCE,
        recorded=True,
    )
    soak = Soak(plan, home, payload)
    try:
        asyncio.run(soak.run())
    except BaseException:
        with capsys.disabled():
            print(*soak.history, *soak.runtime.text().splitlines()[-100:], sep="\n")
        raise
    assert soak.done == operations
    assert soak.life == 2
    assert soak.faults.total() > operations / 50
    assert soak.counts["start ok"] > operations / 50
    assert soak.counts["kill ok"]
    assert soak.counts["install ok"] > operations / 50
    lives = list(recorded.read(soak.recording))
    assert len(lives) == soak.life
    for life in lives:
        replay = Replay(group.cluster for group in soak.groups)
        for event, decided in life:
            replay.feed(event, decided)
        assert replay.answers > operations / 50
        assert replay.notifications > operations / 50
