"""Reads the vectors in tests/vectors: JSON lines of inputs and what they must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DIRECTORY = Path(__file__).parent / "vectors"


def load(name: str) -> list[Any]:
    """Return the vectors of `name`.jsonl as pytest parameters, each named by its line number."""
    lines = (DIRECTORY / f"{name}.jsonl").read_text().splitlines()
    return [
        pytest.param(json.loads(line), id=f"{name}:{number}")
        for number, line in enumerate(lines, start=1)
    ]
