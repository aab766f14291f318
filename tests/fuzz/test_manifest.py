"""Replays the corpus, and a few mutations of it that are the same each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import manifest as fuzz


@pytest.mark.parametrize("path", sorted(fuzz.CORPUS.iterdir()), ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    # The name tells what the reader must say, so that the corpus does not rot to refused texts.
    accepted = fuzz.check(path.read_bytes())
    if not path.name.startswith("found-"):
        assert accepted == path.name.startswith("good-")


def test_mutations() -> None:
    tried, accepted = fuzz.run(random.Random(1), count=1000, seconds=None)
    assert tried == 1000
    # If nothing is accepted any more, the mutations test nothing but the first check.
    assert accepted > 20
