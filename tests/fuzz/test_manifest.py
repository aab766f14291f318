"""Replays the corpus, and a fixed set of its mutations."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import manifest as fuzz


@pytest.mark.parametrize("path", sorted(fuzz.CORPUS.iterdir()), ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    # The name states whether it is accepted: otherwise a stricter reader would refuse all files.
    accepted = fuzz.check(path.read_bytes())
    if not path.name.startswith("found-"):
        assert accepted == path.name.startswith("good-")


def test_mutations() -> None:
    tried, accepted = fuzz.run(random.Random(1), count=1000, seconds=None)
    assert tried == 1000
    # If none is accepted, the mutations only test the first check.
    assert accepted > 20
