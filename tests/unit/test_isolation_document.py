"""The tests that docs/isolation.md names exist, and it names all attacks."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from northstar.manifest import Capability

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/isolation.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", TEXT)


@functools.cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name for n in tree.body if isinstance(n, kinds) and n.name.startswith("test_")}


def test_each_named_test_exists() -> None:
    assert len(NAMED) > 80
    missing = [f"{file}::{name}" for file, name in NAMED if name not in names_in(file)]
    assert missing == []


def test_each_row_names_a_test_and_each_attack_is_named() -> None:
    before = TEXT.partition("## What is not isolated")[0]
    rows = [line for line in before.splitlines() if line.startswith("| ")]
    assert [row for row in rows if "::test_" not in row] == [
        "| what | shown by |",
        "| attempt | tried by |",
    ]
    files = (ROOT / "tests/system/attacks").glob("test_*.py")
    attacks = {
        (f"system/attacks/{file.name}", name)
        for file in files
        for name in names_in(f"system/attacks/{file.name}")
    }
    assert attacks - set(NAMED) == set()


def test_each_capability_has_a_row() -> None:
    lines = re.findall(r"^\| (CAP_\w+) \| \w.*\|$", TEXT, re.MULTILINE)
    assert lines == [c.value for c in sorted(Capability, key=lambda c: c.number)]
