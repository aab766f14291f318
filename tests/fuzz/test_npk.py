"""Replays the corpus of the package fuzzer, and a fixed set of its mutations."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from tests.fuzz import npk


@pytest.mark.parametrize("path", npk.corpus(), ids=lambda path: path.name)
def test_corpus(path: Path):
    """The name of a file states the outcome."""
    outcome = npk.check(path.read_bytes())
    expected = {
        "unsigned": "opened, refused with a key",
        "signed": "opened, opened with a key",
        "signature": "opened, refused with a key",
    }
    assert outcome == expected.get(path.name.split("-")[0], "refused, refused with a key")


def test_some_mutations():
    bases = [path.read_bytes() for path in npk.corpus() if path.stat().st_size]
    trusted = frozenset(filter(None, map(npk.signed_content, npk.corpus())))
    assert trusted
    descriptors = len(os.listdir("/proc/self/fd"))
    for data in itertools.islice(npk.mutations(random.Random(1), bases), 500):
        npk.check(data, trusted)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_violated_rule_is_detected():
    """A check that accepts everything would find nothing."""
    data = next(path for path in npk.corpus() if path.name == "signed").read_bytes()
    with pytest.raises(AssertionError):
        npk.check(data, frozenset({(b"another manifest", "root")}))
