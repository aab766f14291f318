"""Reads the vectors in tests/vectors: JSON lines of inputs and their expected results."""

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


def statistics(version: int) -> dict[str, Any]:
    """Return the statistics of the recorded inspect answer of a host with this cgroup version."""
    answer = json.loads((DIRECTORY / f"inspect-cgroup-v{version}.json").read_text())
    found: dict[str, Any] = answer["response"]["inspect"]["ok"]["data"]["process"]["statistics"]
    return found


def shape(value: Any) -> Any:
    """Return names and types of statistics, without `raw`, a list that depends on the kernel."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key != "raw"}
    return type(value).__name__


def missing(wanted: Any, got: Any, path: str = "") -> list[str]:
    """Return the paths of a shape that another shape lacks, or has with another type."""
    if not isinstance(wanted, dict):
        return [] if wanted == got else [path]
    if not isinstance(got, dict):
        return [path]
    return [
        absent
        for key, inner in wanted.items()
        for absent in (
            [f"{path}.{key}"] if key not in got else missing(inner, got[key], f"{path}.{key}")
        )
    ]
