"""Replays the corpus, and a few mutations of it that are the same each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.configuration import TARGET


@pytest.mark.parametrize("path", TARGET.files(), ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    TARGET.replay(path)


def test_mutations() -> None:
    tried, accepted = TARGET.run(random.Random(1), count=1000)
    assert tried == 1000
    # Without accepted texts the mutations would test only the first check of the reader.
    assert accepted > 10
