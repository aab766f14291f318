"""Replays the corpus, and a few mutations of it that are the same each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.notify import TARGET


@pytest.mark.parametrize("path", TARGET.files(), ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    TARGET.replay(path)


def test_mutations() -> None:
    tried, accepted = TARGET.run(random.Random(1), count=5000)
    assert tried == 5000
    assert accepted > 500
