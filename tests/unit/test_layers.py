"""Who may import whom: the rooms of the house keep to themselves, in functions as well."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
ROOMS = sorted(
    path.name for path in (SRC / "northstar").iterdir() if path.is_dir() and any(path.glob("*.py"))
)

MAY_IMPORT = {
    "deadline": set[str](),
    "model": set[str](),
    "linux": set[str](),
    "manifest": {"model"},
    "api": {"model", "manifest"},
    "npk": {"model", "manifest", "linux"},
    "launch": {"model", "manifest", "linux"},
    "cgroups": {"model", "manifest", "linux"},
    "runtime": {"model", "linux", "manifest", "api", "npk", "launch", "cgroups"},
    "client": {"api", "model"},
    "cli": {"model", "manifest", "api", "npk", "launch", "runtime", "client"},
}

EVERYBODY_MAY_IMPORT = {"deadline"}
"""Rooms that stand below all others."""


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of whatever `source`, the package or module `module`, imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, base]).rstrip(".")
            # `from northstar import linux` names a room as well as `from northstar.linux import x`.
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def trespasses(source: str, module: str) -> list[str]:
    """Return the imports that the room of `module` may not make."""
    room = module.split(".")[1]
    found = []
    for line, name in imports(source, module):
        parts = name.split(".")
        if parts[0] != "northstar" or len(parts) < 2:
            continue
        other = parts[1]
        allowed = MAY_IMPORT[room] | EVERYBODY_MAY_IMPORT | {room}
        if other in MAY_IMPORT and other not in allowed:
            found.append(f"line {line}: {room} may not import {name}")
    return found


def files() -> list[Path]:
    return sorted(path for room in ROOMS for path in (SRC / "northstar" / room).rglob("*.py"))


def test_every_room_has_a_rule():
    assert set(ROOMS) <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SRC)))
def test_imports(path: Path):
    module = ".".join(path.relative_to(SRC).with_suffix("").parts)
    assert trespasses(path.read_text(), module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import northstar.runtime",
        "from northstar import runtime",
        "from northstar.runtime.state import State",
        "from ..runtime import state",
        "from .. import runtime",
        "def f():\n    from northstar.runtime import state",
        "if TYPE_CHECKING:\n    import northstar.runtime.state as state",
    ],
)
def test_a_trespass_is_found(source: str):
    assert len(trespasses(source, "northstar.npk.reader")) == 1


@pytest.mark.parametrize("room", ["manifest", "launch", "api"])
def test_a_room_as_such_can_be_imported(room: str):
    if (SRC / "northstar" / room / "__init__.py").exists():
        assert importlib.util.find_spec(f"northstar.{room}") is not None
