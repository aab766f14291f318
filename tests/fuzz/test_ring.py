"""Replays the corpus, and some mutations of it that are the same each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.ring import SEEDS, TARGET, check


@pytest.mark.parametrize("path", TARGET.files(), ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    TARGET.replay(path)


def test_the_seeds_are_read() -> None:
    assert all(map(check, SEEDS))


def test_mutations() -> None:
    tried, accepted = TARGET.run(random.Random(1), count=20_000)
    assert tried == 20_000
    assert accepted > 1000
