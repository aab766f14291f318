"""The imports that each package may make, also inside of functions."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
PACKAGES = sorted(
    path.name for path in (SRC / "northstar").iterdir() if path.is_dir() and any(path.glob("*.py"))
)

MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "linux": set(),
    "schema": {"model"},
    "api": {"model"},
    "manifest": {"model", "schema"},
    "npk": {"model", "schema", "manifest", "linux"},
    "core": {"model", "api", "manifest"},
    "devices": {"model", "linux", "npk"},
    "launch": {"model", "linux", "manifest"},
    "cgroups": {"model", "linux", "manifest"},
}
MAY_IMPORT["runtime"] = {*MAY_IMPORT}
MAY_IMPORT["client"] = {"model", "api"}
MAY_IMPORT["cli"] = {*MAY_IMPORT} - {"linux"}


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each import in `source`, the package or module `module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base]).rstrip(".")
            # `from northstar import linux` imports a package too, like `import northstar.linux`.
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def forbidden_imports(source: str, module: str) -> list[str]:
    """Return the imports that the package of `module` must not make."""
    package = module.split(".")[1]
    found = []
    for line, name in imports(source, module):
        parts = name.split(".")
        if parts[0] != "northstar" or len(parts) < 2:
            continue
        other = parts[1]
        if other in MAY_IMPORT and other != package and other not in MAY_IMPORT[package]:
            found.append(f"line {line}: {package} must not import {name}")
    return found


def files() -> list[Path]:
    return sorted(
        path for package in PACKAGES for path in (SRC / "northstar" / package).rglob("*.py")
    )


def test_every_package_has_a_rule():
    assert set(PACKAGES) == MAY_IMPORT.keys()


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SRC)))
def test_imports(path: Path):
    module = ".".join(path.relative_to(SRC).with_suffix("").parts)
    assert forbidden_imports(path.read_text(), module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import northstar.runtime",
        "from northstar import runtime",
        "from northstar.runtime.executor import Executor",
        "from ..runtime import state",
        "from .. import runtime",
        "def f():\n    from northstar.runtime import state",
        "if TYPE_CHECKING:\n    import northstar.runtime.executor as executor",
    ],
)
def test_a_forbidden_import_is_found(source: str):
    assert len(forbidden_imports(source, "northstar.npk.reader")) == 1


@pytest.mark.parametrize("package", ["manifest", "launch", "api"])
def test_a_package_can_be_imported(package: str):
    assert importlib.util.find_spec(f"northstar.{package}") is not None
